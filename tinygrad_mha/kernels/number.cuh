// What all kernels compute with.
#ifndef REAL
#define REAL float
#endif
#ifndef INFINITY  // g++ and nvcc have this macro, NVRTC has not
#define INFINITY __int_as_float(0x7f800000)
#endif
typedef REAL number;

#define ALL_LANES 0xffffffffu
#define WARP 32

// For every k below n, shared out among all threads of the grid.
#define EACH(k, n)                                                                        \
  for (long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x, stop_##k = (n); \
       k < stop_##k; k += (long long)gridDim.x * blockDim.x)

// A product that is rounded before anything is added to it: two sums with it then cancel to the last digit.
__device__ __forceinline__ float rounded(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ number warp_sum(number v) {
  for (int o = WARP / 2; o; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
  return v;
}
__device__ __forceinline__ number warp_max(number v) {
  for (int o = WARP / 2; o; o /= 2) v = max(v, __shfl_xor_sync(ALL_LANES, v, o));
  return v;
}
