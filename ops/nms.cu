// Non-maximum suppression of a batch, one block an image: nms.py says what it means.
//
// nms_greedy walks the candidates from the best down, a block of them at a time, one a thread. Each is first tested
// against the boxes kept so far. Those left are then picked one by one, the first is the best, and every pick tests all
// others of the block at once. At most `most` picks are made in all, so neither an N x N mask nor its reduction exists,
// and an image is done as soon as it is full.
//
// nms_soft has no order to walk in: scores fall as boxes are picked. Thread t owns candidates t, t + blockDim, ...; one
// pass lowers their scores and finds the best of them for the next pick.

// Static, 12 KiB of 18: lists longer than this go on in device memory, where `keep` says who they are.
#define KEPT_IN_SHARED 512
#define WARPS (BLOCK / 32)  // BLOCK: threads, from nms.py

// Products rounded on their own: a product and a sum fused into one instruction would decide otherwise than the CPU.
__device__ __forceinline__ float area(float4 box) { return __fmul_rn(box.z - box.x, box.w - box.y); }

// Intersection over union; NaN, which is above no threshold, where there is no area.
__device__ __forceinline__ float iou(float4 a, float4 b) {
  float width = fmaxf(fminf(a.z, b.z) - fmaxf(a.x, b.x), 0.f);
  float height = fmaxf(fminf(a.w, b.w) - fmaxf(a.y, b.y), 0.f);
  float both = __fmul_rn(width, height);
  return both / (area(a) + area(b) - both);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
nms_greedy(const float4* __restrict__ boxes, const i64* __restrict__ classes, const float* __restrict__ ranked_scores,
           const i64* __restrict__ order, i64* keep, float* __restrict__ kept_scores, i64* __restrict__ counts,
           i64 candidates, i64 most, float threshold, float min_score) {
  __shared__ float4 kept_boxes[KEPT_IN_SHARED], my_boxes[BLOCK];
  __shared__ i64 kept_classes[KEPT_IN_SHARED], my_classes[BLOCK];
  __shared__ unsigned free_bits[2][WARPS];
  const int me = threadIdx.x;
  const i64 image = blockIdx.x;
  boxes += image * candidates, classes += image * candidates;
  ranked_scores += image * candidates, order += image * candidates;
  keep += image * most, kept_scores += image * most;

  i64 kept = 0;  // the same in all threads, as are `pick` and `side`
  int side = 0;  // the half of free_bits that is written next: the other may still be read
  for (i64 base = 0; base < candidates && kept < most; base += BLOCK) {
    if (!(ranked_scores[base] > min_score)) break;
    const i64 rank = base + me;
    const float score = rank < candidates ? ranked_scores[rank] : min_score;
    bool is_free = score > min_score;
    const i64 index = is_free ? order[rank] : 0;
    const float4 box = boxes[index];
    const i64 of_class = classes[index];
    for (i64 k = 0; is_free && k < kept; k++) {
      const i64 earlier = k < KEPT_IN_SHARED ? 0 : keep[k];
      const i64 its_class = k < KEPT_IN_SHARED ? kept_classes[k] : classes[earlier];
      if (its_class != of_class) continue;
      is_free = !(iou(k < KEPT_IN_SHARED ? kept_boxes[k] : boxes[earlier], box) > threshold);
    }
    my_boxes[me] = box;
    my_classes[me] = of_class;
    for (int word = 0;;) {
      const unsigned bits = __ballot_sync(EVERY_LANE, is_free);
      if ((me & 31) == 0) free_bits[side][me >> 5] = bits;
      __syncthreads();
      while (word < WARPS && free_bits[side][word] == 0u) word++;
      const int pick = word < WARPS ? word * 32 + __ffs((int)free_bits[side][word]) - 1 : -1;
      side ^= 1;
      if (pick < 0 || kept == most) break;
      if (me == pick) {
        is_free = false;
        keep[kept] = index;
        kept_scores[kept] = score;
        if (kept < KEPT_IN_SHARED) kept_boxes[kept] = box, kept_classes[kept] = of_class;
      } else if (is_free && my_classes[pick] == of_class) {
        is_free = !(iou(my_boxes[pick], box) > threshold);
      }
      kept++;
    }
  }
  if (me == 0) counts[image] = kept;
  for (i64 k = kept + me; k < most; k += BLOCK) keep[k] = -1, kept_scores[k] = 0.f;
}

// Larger for a higher score, and of equal scores for the lower index. Scores are above 0, so their bits are in order.
__device__ __forceinline__ u64 ranking(float score, i64 index) {
  return (u64)__float_as_uint(score) << 32 | (0xffffffffu - (unsigned)index);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
nms_soft(const float4* __restrict__ boxes, const i64* __restrict__ classes, const float* __restrict__ scores,
         float* __restrict__ left, i64* __restrict__ keep, float* __restrict__ kept_scores, i64* __restrict__ counts,
         i64 candidates, i64 most, float sigma, float min_score) {
  __shared__ u64 warp_best[2][WARPS];
  const int me = threadIdx.x;
  const i64 image = blockIdx.x;
  boxes += image * candidates, classes += image * candidates, scores += image * candidates, left += image * candidates;
  keep += image * most, kept_scores += image * most;

  u64 best = 0;
  for (i64 i = me; i < candidates; i += BLOCK) {
    const float score = scores[i] > min_score ? scores[i] : 0.f;
    left[i] = score;
    if (score > min_score) best = max(best, ranking(score, i));
  }
  i64 kept = 0;
  for (int side = 0; kept < most; side ^= 1) {
    for (int d = 16; d > 0; d >>= 1) best = max(best, (u64)__shfl_xor_sync(EVERY_LANE, best, d));
    if ((me & 31) == 0) warp_best[side][me >> 5] = best;
    __syncthreads();  // the only one a pick: the next pick writes the other half
    for (int w = 0; w < WARPS; w++) best = max(best, warp_best[side][w]);
    if (best == 0) break;
    const i64 picked = 0xffffffffu - (unsigned)best;
    if (me == 0) keep[kept] = picked, kept_scores[kept] = __uint_as_float((unsigned)(best >> 32));
    kept++;
    const float4 box = boxes[picked];
    const i64 of_class = classes[picked];
    best = 0;
    for (i64 i = me; i < candidates; i += BLOCK) {
      float score = left[i];
      if (!(score > min_score)) continue;
      if (i == picked) {
        left[i] = 0.f;
        continue;
      }
      if (classes[i] == of_class) {
        const float overlap = iou(box, boxes[i]);
        if (overlap > 0.f) left[i] = score *= expf(-__fmul_rn(overlap, overlap) / sigma);
      }
      if (score > min_score) best = max(best, ranking(score, i));
    }
  }
  if (me == 0) counts[image] = kept;
  for (i64 k = kept + me; k < most; k += BLOCK) keep[k] = -1, kept_scores[k] = 0.f;
}
