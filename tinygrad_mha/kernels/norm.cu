// Layer norm and rms norm. A warp owns a row.
#include "number.cuh"

// z = (x - mean) / s, s = √(mean square of x - mean, + eps); with `centred` 0 the mean is taken to be 0. With a
// residual, x + residual takes the place of x. y = z · weight + bias. residual, weight and bias may be null.
// x, residual, y, z (rows, n), scales (rows): 1 / s. Grid: warps for all rows.
extern "C" __global__ void row_norm(const number* __restrict__ x, const number* __restrict__ residual,
                                const number* __restrict__ weight, const number* __restrict__ bias,
                                number* __restrict__ y, number* __restrict__ z, number* __restrict__ scales, int rows,
                                int n, number eps, int centred) {
  int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += (size_t)row * n, y += (size_t)row * n, z += (size_t)row * n;
  number mean = 0, squares = 0;
  for (int k = lane; k < n; k += WARP) {
    z[k] = residual ? x[k] + residual[(size_t)row * n + k] : x[k];  // a lane reads what it has written
    mean += z[k];
  }
  mean = centred ? warp_sum(mean) / n : number(0);
  for (int k = lane; k < n; k += WARP) squares += (z[k] - mean) * (z[k] - mean);
  number scale = 1 / sqrt(warp_sum(squares) / n + eps);
  for (int k = lane; k < n; k += WARP) {
    number unit = (z[k] - mean) * scale;
    z[k] = unit;
    y[k] = (weight ? unit * weight[k] : unit) + (bias ? bias[k] : number(0));
  }
  if (lane == 0) scales[row] = scale;
}

// dx = (h - mean h - z · mean(h · z)) / s, h = g · weight; without `centred` mean h does not count.
extern "C" __global__ void row_norm_back(const number* __restrict__ g, const number* __restrict__ weight,
                                     const number* __restrict__ z, const number* __restrict__ scales,
                                     number* __restrict__ dx, int rows, int n, int centred) {
  int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  g += (size_t)row * n, z += (size_t)row * n, dx += (size_t)row * n;
  number mean = 0, along = 0;
  for (int k = lane; k < n; k += WARP) {
    number h = weight ? rounded(g[k], weight[k]) : g[k];
    mean += h, along += h * z[k];
  }
  mean = centred ? warp_sum(mean) / n : number(0), along = warp_sum(along) / n;
  for (int k = lane; k < n; k += WARP) {
    number h = weight ? rounded(g[k], weight[k]) : g[k];
    dx[k] = (h - mean - z[k] * along) * scales[row];
  }
}
