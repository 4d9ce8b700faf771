"""Chapter 18: kernels, for ops whose arrays live on a GPU.

CuPy would launch a dozen kernels for each of these ops, and a launch costs the host as much as a
small model's arithmetic costs the device. Here an op is one launch each way, or a few. The ``.cu``
files hold the kernels; beside each, a ``.py`` says what is launched when. They compute what the
op's array code computes, which stays the definition, and takes over where ``usable`` says no.
"""
