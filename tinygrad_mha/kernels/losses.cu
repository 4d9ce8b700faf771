// Cross-entropy of logits and class numbers: softmax, logarithm, choice, weights and the sum in one kernel.
#include "number.cuh"
#include "ticket.cuh"

// The share q_c of class c in the goal of a row whose target is t: see the docstring of cross_entropy.
struct Goal {
  const number* weight;  // (C), or null for ones
  number smoothing;
  long long ignored;
  int ignores, classes;
};
__device__ __forceinline__ number weight_of(Goal goal, long long c) {
  return c < 0 || c >= goal.classes ? number(0) : goal.weight ? goal.weight[c] : number(1);
}
__device__ __forceinline__ number share_of(Goal goal, long long t, int c) {
  if (goal.ignores && t == goal.ignored) return 0;
  number w = weight_of(goal, c);
  return (c == t ? w * (1 - goal.smoothing) : number(0)) + w * (goal.smoothing / goal.classes);
}

// x (N, C), targets (N). losses (N): of each row. logs (N): the logarithm of each row's sum of exponentials.
// counted (N): w_t. result (2): the sum of the losses, if `mean` over the sum of w_t; and what one loss weighs in it.
// A warp owns a row; the block that is ready last adds up, in the order of the rows. Grid: warps for all rows.
extern "C" __global__ void cross_entropy(const number* __restrict__ x, const long long* __restrict__ targets,
                                         number* losses, number* __restrict__ logs, number* counted,
                                         number* __restrict__ result, unsigned* ticket, const Goal goal, int rows,
                                         int mean) {
  __shared__ number sums[2][WARP];
  int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP, n = goal.classes;
  if (row < rows) {
    const number* mine = x + (size_t)row * n;
    long long t = targets[row];
    number top = -INFINITY, sum = 0, loss = 0;
    for (int c = lane; c < n; c += WARP) top = max(top, mine[c]);
    top = warp_max(top);
    number shift = isfinite(top) ? top : number(0);
    for (int c = lane; c < n; c += WARP) sum += exp(mine[c] - shift);
    number log_sum = shift + log(warp_sum(sum));
    for (int c = lane; c < n; c += WARP) {
      number q = share_of(goal, t, c);
      if (q != 0) loss -= q * (mine[c] - log_sum);  // nobody hoped for the others, and 0 · ∞ is no 0
    }
    loss = warp_sum(loss);
    if (lane == 0) {
      losses[row] = loss, logs[row] = log_sum;
      counted[row] = goal.ignores && t == goal.ignored ? number(0) : weight_of(goal, t);
    }
  }
  if (!last_block(ticket, gridDim.x)) return;
  number total = 0, weights = 0;
  for (int r = threadIdx.x; r < rows; r += blockDim.x) {
    total += ((volatile number*)losses)[r];
    weights += ((volatile number*)counted)[r];
  }
  total = warp_sum(total), weights = warp_sum(weights);
  if (lane == 0) sums[0][threadIdx.x / WARP] = total, sums[1][threadIdx.x / WARP] = weights;
  __syncthreads();
  if (threadIdx.x) return;
  total = weights = 0;
  for (int w = 0; w < blockDim.x / WARP; w++) total += sums[0][w], weights += sums[1][w];
  number part = mean && weights != 0 ? 1 / weights : number(1);
  result[0] = total * part, result[1] = part;
}

// dx = g · part · (p Σ q - q). g: one number, or one for each row (`each`). part: result[1], or null for 1.
extern "C" __global__ void cross_entropy_back(const number* __restrict__ x, const long long* __restrict__ targets,
                                              const number* __restrict__ logs, const number* __restrict__ g,
                                              const number* __restrict__ part, number* __restrict__ dx,
                                              const Goal goal, int rows, int each) {
  int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP, n = goal.classes;
  if (row >= rows) return;
  number scale = g[each ? row : 0] * (part ? *part : number(1)), all = 0;
  long long t = targets[row];
  for (int c = lane; c < n; c += WARP) all += share_of(goal, t, c);
  all = warp_sum(all);
  for (int c = lane; c < n; c += WARP) {
    size_t at = (size_t)row * n + c;
    dx[at] = scale * (exp(x[at] - logs[row]) * all - share_of(goal, t, c));
  }
}
