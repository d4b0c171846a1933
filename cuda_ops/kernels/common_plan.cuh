// What the texts that kernels and launchers share begin with. Plain C++.
#pragma once

#ifdef __CUDACC_RTC__
#define DKMP_PLAN __device__ constexpr
#else
#define DKMP_PLAN constexpr
#endif
