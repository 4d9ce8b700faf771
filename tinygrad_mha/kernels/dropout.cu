// Dropout, whose mask is drawn again on the way back instead of being kept.
#include "number.cuh"
#include "philox.cuh"

// y = x · m, m = grow where the element is kept, else 0. x, y (rows, size). A warp draws the bits of 32 blocks, one a
// lane, and then reads their 512 elements side by side. Block: a multiple of 32. Grid: as many warps as wanted.
extern "C" __global__ void dropout(const number* __restrict__ x, number* __restrict__ y, const Dropout d, number grow,
                                   long long rows, long long size) {
  int lane = threadIdx.x % WARP;
  long long warps = (long long)gridDim.x * blockDim.x / WARP, blocks = rows * (long long)d.blocks_of_a_row;
  for (long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / WARP * WARP; first < blocks; first += warps * WARP) {
    unsigned mine = kept_bits(d, d.first_block + first + lane);
    for (int k = lane; k < WARP * 16; k += WARP) {
      unsigned bits = __shfl_sync(ALL_LANES, mine, k / 16);
      long long block = first + k / 16, row = block / (long long)d.blocks_of_a_row;
      long long column = block % (long long)d.blocks_of_a_row * 16 + k % 16, at = row * size + column;
      if (row < rows && column < size) y[at] = x[at] * (bits >> (k % 16) & 1 ? grow : number(0));
    }
  }
}
