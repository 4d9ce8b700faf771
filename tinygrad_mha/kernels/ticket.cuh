// How the blocks of one launch find out which of them is the last to be ready, and may add up what all have left.

// Whether this block is the last of the grid's `blocks` to come here. What the others wrote before they came can then
// be read, through a volatile pointer. The ticket is 0 before and after. All threads of the block take part.
static __device__ __forceinline__ bool last_block(unsigned* ticket, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == blocks - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}
