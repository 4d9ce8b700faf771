// Sums down the columns of a table, and what is added to all of its rows.
#include "number.cuh"
#include "ticket.cuh"
#define ACROSS 32  // columns of a block
#define DOWN 16    // rows that it reads at a time

// The sum of `mine` over the block's rows of threads: in the threads with threadIdx.y == 0. All threads take part.
__device__ __forceinline__ number down(number mine, number (*scratch)[ACROSS]) {
  int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
  scratch[y][x] = mine;
  __syncthreads();
  number sum = 0;
  if (y == 0)
    for (int k = 0; k < DOWN; k++) sum += scratch[k][x];
  __syncthreads();
  return sum;
}

// x (rows, n) -> y (n), or (2, n) if there is a z: the sums of x, and those of x · z. Two stages in one launch: every
// block sums a stretch of the rows of 32 columns; the last one to be ready adds the stretches up, always in the same
// order. parts (gridDim.y, 2, n); tickets (gridDim.x), 0 before and after.
// Grid: (ceil(n / 32), stretches). Block: 32 * 16.
extern "C" __global__ void __launch_bounds__(ACROSS* DOWN)
column_sum(const number* __restrict__ x, const number* __restrict__ z, number* __restrict__ y, number* parts,
           unsigned* tickets, int rows, int n) {
  __shared__ number scratch[DOWN][ACROSS];
  int column = blockIdx.x * ACROSS + threadIdx.x % ACROSS, line = threadIdx.x / ACROSS;
  int stretch = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * stretch, end = min(rows, first + stretch);
  number sum = 0, product = 0;
  if (column < n) {
#pragma unroll 4
    for (int r = first + line; r < end; r += DOWN) {
      number value = x[(size_t)r * n + column];
      sum += value;
      if (z) product += value * z[(size_t)r * n + column];
    }
  }
  sum = down(sum, scratch);
  if (z) product = down(product, scratch);
  if (gridDim.y == 1) {
    if (line == 0 && column < n) {
      y[column] = sum;
      if (z) y[n + column] = product;
    }
    return;
  }
  number* mine = parts + (size_t)blockIdx.y * 2 * n;
  if (line == 0 && column < n) {
    mine[column] = sum;
    if (z) mine[n + column] = product;
  }
  if (!last_block(tickets + blockIdx.x, gridDim.y)) return;
  for (int which = 0; which < (z ? 2 : 1); which++) {
    sum = 0;
    if (column < n)
      for (int k = line; k < gridDim.y; k += DOWN) sum += ((volatile number*)parts)[((size_t)k * 2 + which) * n + column];
    sum = down(sum, scratch);
    if (line == 0 && column < n) y[(size_t)which * n + column] = sum;
  }
}

// y (rows, n) += b (n). Any grid and block.
extern "C" __global__ void add_bias(number* __restrict__ y, const number* __restrict__ b, long long size, int n) {
  EACH(k, size) y[k] += b[k % n];
}
