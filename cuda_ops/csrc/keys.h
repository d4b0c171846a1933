// Dispatch keys of the CPU and the CUDA kernels. tests/kernels/mock_driver builds the library with the CUDA
// kernels under the key of CPU tensors, so that the real launcher runs without a GPU.
#pragma once

#ifndef DKMP_CPU_KEY
#define DKMP_CPU_KEY CPU
#endif
#ifndef DKMP_CUDA_KEY
#define DKMP_CUDA_KEY CUDA
#endif
