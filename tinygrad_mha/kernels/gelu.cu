// The Gaussian error linear unit, and its slope for the way back. With a bias (n), which may be null, x + bias takes the
// place of x (rows, n). y may be x. Any grid and block.
#include "number.cuh"

// y = x Φ(x), slope = Φ(x) + x φ(x); beyond 40 both are what they tend to, and ∞ · 0 is not met.
extern "C" __global__ void gelu(const number* x, const number* __restrict__ bias, number* y, number* __restrict__ slope,
                                long long size, int n) {
  EACH(k, size) {
    number v = bias ? x[k] + bias[k % n] : x[k], z = v < -40 ? number(-40) : v > 40 ? number(40) : v;
    number below = erfc(z * number(-0.70710678118654752440)) / 2;  // Φ, with its digits far below 0
    number density = exp(-z * z / 2) * number(0.39894228040143267794);
    y[k] = (v > 0 ? v : z) * below;
    slope[k] = below + z * density;
  }
}

// y = x h, h = (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³). Beyond 10 the tanh is ±1, and a cube might overflow.
extern "C" __global__ void gelu_tanh(const number* x, const number* __restrict__ bias, number* y,
                                     number* __restrict__ slope, long long size, int n) {
  const number steep = 0.79788456080286535588, cubic = 0.044715;
  EACH(k, size) {
    number v = bias ? x[k] + bias[k % n] : x[k], z = v < -10 ? number(-10) : v > 10 ? number(10) : v;
    number h = (1 + tanh(steep * (z + cubic * z * z * z))) / 2;
    y[k] = (v > 0 ? v : z) * h;
    slope[k] = h + 2 * z * h * (1 - h) * steep * (1 + 3 * cubic * z * z);
  }
}

// dx = g · slope; 0 where g is 0, whatever the slope is there.
extern "C" __global__ void gelu_back(const number* __restrict__ g, const number* __restrict__ slope,
                                     number* __restrict__ dx, long long size) {
  EACH(k, size) dx[k] = g[k] == 0 ? number(0) : g[k] * slope[k];
}
