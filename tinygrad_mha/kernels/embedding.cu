// Rows of a table, and the sums of the gradients that go back to each of them.
#include "number.cuh"

// y (N, d) = weight[ids]. Any grid and block.
extern "C" __global__ void embedding(const long long* __restrict__ ids, const number* __restrict__ weight,
                                     number* __restrict__ y, long long size, int d) {
  EACH(k, size) y[k] = weight[ids[k / d] * d + k % d];
}

// dweight[words[u]] = Σ g[order[k]] for k from starts[u] to starts[u + 1]: the places where a word stands, one after
// another, so that the sum is the same every time. dweight is 0 before. LINES rows of threads share a word's places.
// Grid: (words, ceil(d / 32)). Block: 32 * LINES.
#define LINES 8
extern "C" __global__ void __launch_bounds__(WARP* LINES)
embedding_back(const number* __restrict__ g, const long long* __restrict__ order,
               const long long* __restrict__ starts, const long long* __restrict__ words,
               number* __restrict__ dweight, int d) {
  __shared__ number sums[LINES][WARP];
  int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, column = blockIdx.y * WARP + lane;
  long long end = starts[blockIdx.x + 1];
  number sum = 0;
  if (column < d)
    for (long long k = starts[blockIdx.x] + line; k < end; k += LINES) sum += g[order[k] * d + column];
  sums[line][lane] = sum;
  __syncthreads();
  if (line || column >= d) return;
  for (int r = 1; r < LINES; r++) sum += sums[r][lane];
  dweight[words[blockIdx.x] * d + column] = sum;
}
