// Pasted in front of every kernel (not included: CuPy's disk cache would not see it change).
#ifndef ON_HOST
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
typedef long long i64;
typedef unsigned long long u64;
#define EVERY_LANE 0xffffffffu

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T> struct Narrow;  // rounds to nearest even, as torch does
template <> struct Narrow<float> { static __device__ __forceinline__ float of(float v) { return v; } };
template <> struct Narrow<double> { static __device__ __forceinline__ double of(double v) { return v; } };
template <> struct Narrow<__half> { static __device__ __forceinline__ __half of(float v) { return __float2half(v); } };
template <> struct Narrow<__nv_bfloat16> {
  static __device__ __forceinline__ __nv_bfloat16 of(float v) { return __float2bfloat16(v); }
};

// Sum over a block of a multiple of 32 threads, always in the same order; right in thread 0 only.
template <class T> __device__ __forceinline__ T block_sum(T v) {
  __shared__ T part[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_down_sync(EVERY_LANE, v, d);
  if (lane == 0) part[warp] = v;
  __syncthreads();
  v = lane < warps ? part[lane] : T(0);
  if (warp == 0)
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) v += __shfl_down_sync(EVERY_LANE, v, d);
  __syncthreads();  // `part` may be written again by a second sum
  return v;
}

// True in all threads of the block that comes here last of the grid, once what all blocks wrote before can be read.
// The ticket is left at 0, ready for the next launch.
__device__ __forceinline__ bool last_block(unsigned* ticket) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == gridDim.x * gridDim.y - 1u;
    if (last) *ticket = 0u;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}
