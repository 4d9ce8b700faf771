// Softmax and its logarithm along rows. A warp owns a row.
#include "number.cuh"

// The thread's row and the lane; false beyond the last row.
__device__ __forceinline__ bool own_row(int rows, int* row, int* lane) {
  *row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, *lane = threadIdx.x % WARP;
  return *row < rows;
}

// The maximum of a row, 0 for a row of nothing but -inf; and the sum of exponentials of what is left of x without it.
__device__ __forceinline__ number shift_and_sum(const number* x, int n, int lane, number* sum) {
  number top = -INFINITY, total = 0;  // (max passes over a NaN; the sum will not)
  for (int c = lane; c < n; c += WARP) top = max(top, x[c]);
  top = warp_max(top);
  top = top == -INFINITY ? number(0) : top;
  for (int c = lane; c < n; c += WARP) total += exp(x[c] - top);
  *sum = warp_sum(total);
  return top;
}

// y = e^(x - top) / sum; zeros for a row of nothing but -inf. x, y (rows, n). Grid: warps for all rows.
extern "C" __global__ void softmax(const number* __restrict__ x, number* __restrict__ y, int rows, int n) {
  int row, lane;
  if (!own_row(rows, &row, &lane)) return;
  x += (size_t)row * n, y += (size_t)row * n;
  number sum, top = shift_and_sum(x, n, lane, &sum);
  if (sum == 0) sum = 1;
  for (int c = lane; c < n; c += WARP) y[c] = exp(x[c] - top) / sum;
}

// dx = y · (g - ⟨g, y⟩)
extern "C" __global__ void softmax_back(const number* __restrict__ g, const number* __restrict__ y,
                                        number* __restrict__ dx, int rows, int n) {
  int row, lane;
  if (!own_row(rows, &row, &lane)) return;
  g += (size_t)row * n, y += (size_t)row * n, dx += (size_t)row * n;
  number along = 0;
  for (int c = lane; c < n; c += WARP) along += g[c] * y[c];
  along = warp_sum(along);
  for (int c = lane; c < n; c += WARP) dx[c] = y[c] * (g[c] - along);
}

// y = x - top - log sum
extern "C" __global__ void log_softmax(const number* __restrict__ x, number* __restrict__ y, int rows, int n) {
  int row, lane;
  if (!own_row(rows, &row, &lane)) return;
  x += (size_t)row * n, y += (size_t)row * n;
  number sum, top = shift_and_sum(x, n, lane, &sum), log_sum = sum == 0 ? number(0) : log(sum);
  for (int c = lane; c < n; c += WARP) y[c] = x[c] - top - log_sum;
}

// dx = g - e^y · Σ g
extern "C" __global__ void log_softmax_back(const number* __restrict__ g, const number* __restrict__ y,
                                            number* __restrict__ dx, int rows, int n) {
  int row, lane;
  if (!own_row(rows, &row, &lane)) return;
  g += (size_t)row * n, y += (size_t)row * n, dx += (size_t)row * n;
  number all = 0;
  for (int c = lane; c < n; c += WARP) all += g[c];
  all = warp_sum(all);
  for (int c = lane; c < n; c += WARP) dx[c] = g[c] - exp(y[c]) * all;
}
