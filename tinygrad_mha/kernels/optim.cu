// Optimizers and clipping, over all parameters in one launch: what a launch costs, not what it computes, is the time.
#include "number.cuh"
#include "ticket.cuh"
#ifndef COUNT
#define COUNT 64  // arrays in one launch
#endif

struct Moved {  // one parameter, its gradient, and what an optimizer remembers of it: pointers, or null
  number* p;
  const number* g;
  number* mean;
  number* square;
  long long size;
};
struct Arrays {
  Moved of[COUNT];
};

// p ← p - lr m̂ / (√v̂ + eps), as in optim.py. `step` is lr / (1 - β₁ᵗ) and `root` √(1 - β₂ᵗ). `shrink`: 1 - lr · decay,
// for AdamW, else 1; `decay` is added to the gradient, for Adam, else 0. only_if: one number or null; unless it is
// finite nothing moves. Grid: (any, arrays).
extern "C" __global__ void adam(const Arrays arrays, const number* __restrict__ only_if, number b1, number b2,
                                number eps, number step, number root, number shrink, number decay) {
  if (only_if && !isfinite(*only_if)) return;
  const Moved& a = arrays.of[blockIdx.y];
  EACH(k, a.size) {
    number p = a.p[k] * shrink, g = a.g[k] + decay * p;
    number mean = a.mean[k] * b1 + g * (1 - b1), square = a.square[k] * b2 + g * g * (1 - b2);
    a.mean[k] = mean, a.square[k] = square;
    a.p[k] = p - step * (mean / (sqrt(square) / root + eps));
  }
}

// d = g + decay · p, v ← momentum · v + d, p ← p - lr · v, or, with nesterov, p - lr · (d + momentum · v): as in
// optim.py. `mean` is v, or null without momentum. Grid: (any, arrays).
extern "C" __global__ void sgd(const Arrays arrays, const number* __restrict__ only_if, number lr, number momentum,
                               number decay, int nesterov) {
  if (only_if && !isfinite(*only_if)) return;
  const Moved& a = arrays.of[blockIdx.y];
  EACH(k, a.size) {
    number p = a.p[k], d = a.g[k] + decay * p;
    if (a.mean) {
      number v = a.mean[k] * momentum + d;
      a.mean[k] = v;
      d = nesterov ? d + momentum * v : v;
    }
    a.p[k] = p - lr * d;
  }
}

// The norm of all gradients together. parts (gridDim.y, gridDim.x): sums of squares of stretches, which the last block
// adds up. result (2): the norm, and what the gradients are to be multiplied with. Block: 256. Grid: (any, arrays).
extern "C" __global__ void grad_norm(const Arrays arrays, number* parts, number* result, unsigned* ticket,
                                     number max_norm) {
  __shared__ number sums[256 / WARP];
  const Moved& a = arrays.of[blockIdx.y];
  number sum = 0;
  EACH(k, a.size) sum += a.g[k] * a.g[k];
  int blocks = gridDim.x * gridDim.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  for (int stage = 0; stage < 2; stage++) {
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < 256 / WARP; w++) sum += sums[w];
    if (stage == 1) break;
    if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sum;
    if (!last_block(ticket, blocks)) return;
    sum = 0;
    for (int k = threadIdx.x; k < blocks; k += 256) sum += ((volatile number*)parts)[k];
  }
  if (threadIdx.x) return;
  number norm = sqrt(sum);
  result[0] = norm;
  number factor = max_norm / (norm + number(1e-6));
  result[1] = factor > 1 ? number(1) : factor;  // a norm that is no number makes no number
}

// p ← g · factor: the clipped gradients, in new arrays. Grid: (any, arrays).
extern "C" __global__ void scale(const Arrays arrays, const number* __restrict__ factor) {
  const Moved& a = arrays.of[blockIdx.y];
  number f = *factor;
  EACH(k, a.size) a.p[k] = a.g[k] * f;
}
