/* Weights in blocks, expanded to numbers and multiplied with, a block at a time in registers and first cache.
 *
 * For each format NAME of the table at the end there are
 *   expand_NAME(packed, blocks, out, as_bf16, threads): the blocks' values in fp32 or bf16, one after another;
 *   product_NAME(packed, rows, row_blocks, x, width, out, threads): out[i][r] = x[i] . row r, in fp32.
 * Values are those of the reference (gguf's Python package, OCP's MX): products and sums are rounded one by
 * one, so the file is compiled without contraction. Dot products fuse on purpose; their order is fixed by the
 * columns alone, so that neither the number of rows, of threads nor of x's changes a bit.
 *
 * Threads are OpenMP's: loaded beside torch, they are the threads that torch itself computes with.
 */
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MOST_ELEMENTS 256
#define WIDEST 16
#define TOGETHER 4
#define LEAST_PARALLEL_ELEMENTS 65536

/* As many numbers as the widest register has. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define EACH(count) for (int i = 0; i < (count); i += LANES)

typedef uint8_t u8;
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t word(const u8 *p) {
  uint32_t value;
  memcpy(&value, p, 4);
  return value;
}

static inline float half(const u8 *p) {
  uint16_t bits;
  memcpy(&bits, p, 2);
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  return from_bits(sign | 0x3f800000) * (from_bits(rest << 13) * 0x1p112f);
#endif
}

static inline ints bytes_at(const u8 *p) {
#if defined(__AVX512F__)
  return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
  return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
  ints found;
  for (int i = 0; i < LANES; i++) found[i] = p[i];
  return found;
#endif
}

static inline ints signed_at(const u8 *p) {
#if defined(__AVX512F__)
  return (ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#else
  return bytes_at(p) << 24 >> 24;
#endif
}

static inline ints shorts_at(const u8 *p) {
#if defined(__AVX512F__)
  return (ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
  return (ints)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#else
  ints found;
  for (int i = 0; i < LANES; i++) found[i] = p[2 * i] | p[2 * i + 1] << 8;
  return found;
#endif
}

static inline lanes numbers(ints whole) { return __builtin_convertvector(whole, lanes); }

static inline void put(float *to, lanes values) { *(lanes *)to = values; }

/* Each lane has its own of 32 bits, from bit `first` on. */
static inline ints bits_of(uint32_t bits, int first) {
  ints found;
  for (int i = 0; i < LANES; i++) found[i] = first + i;
  return (((int32_t)bits - (ints){0}) >> found) & 1;
}

/* 2^(e - 127), as MX scales have it; 255 is not a number. */
static inline float power(u8 e) {
  return e == 255 ? from_bits(0x7fc00000) : e ? from_bits((uint32_t)e << 23) : 0x1p-127f;
}

/* --- blocks of 32 --- */

static inline void values_q4_0(const u8 *p, float *out) {
  const float d = half(p);
  EACH(16) {
    const ints q = bytes_at(p + 2 + i);
    put(out + i, d * numbers((q & 15) - 8));
    put(out + 16 + i, d * numbers((q >> 4) - 8));
  }
}

static inline void values_q4_1(const u8 *p, float *out) {
  const float d = half(p), m = half(p + 2);
  EACH(16) {
    const ints q = bytes_at(p + 4 + i);
    put(out + i, d * numbers(q & 15) + m);
    put(out + 16 + i, d * numbers(q >> 4) + m);
  }
}

static inline void values_q5_0(const u8 *p, float *out) {
  const float d = half(p);
  const uint32_t high = word(p + 2);
  EACH(16) {
    const ints q = bytes_at(p + 6 + i);
    put(out + i, d * numbers(((q & 15) | bits_of(high, i) << 4) - 16));
    put(out + 16 + i, d * numbers((q >> 4 | bits_of(high, 16 + i) << 4) - 16));
  }
}

static inline void values_q5_1(const u8 *p, float *out) {
  const float d = half(p), m = half(p + 2);
  const uint32_t high = word(p + 4);
  EACH(16) {
    const ints q = bytes_at(p + 8 + i);
    put(out + i, d * numbers((q & 15) | bits_of(high, i) << 4) + m);
    put(out + 16 + i, d * numbers(q >> 4 | bits_of(high, 16 + i) << 4) + m);
  }
}

static inline void values_q8_0(const u8 *p, float *out) {
  const float d = half(p);
  EACH(32) put(out + i, d * numbers(signed_at(p + 2 + i)));
}

/* --- blocks of 256, with scales of scales --- */

static inline void values_q2_k(const u8 *p, float *out) {
  const float d = half(p + 80), m = half(p + 82);
  for (int g = 0; g < 16; g++) {
    const u8 *q = p + 16 + g / 8 * 32 + g % 2 * 16;
    const float by = d * (float)(p[g] & 15), off = m * (float)(p[g] >> 4);
    EACH(16) put(out + 16 * g + i, by * numbers(bytes_at(q + i) >> g / 2 % 4 * 2 & 3) - off);
  }
}

static inline void values_q3_k(const u8 *p, float *out) {
  const u8 *scales = p + 96;
  const float d = half(p + 108);
  for (int g = 0; g < 16; g++) {
    const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4, high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
    const float by = d * (float)((low | high << 4) - 32);
    const u8 *q = p + 32 + g / 8 * 32 + g % 2 * 16, *mask = p + g % 2 * 16;
    EACH(16) {
      const ints kept = bytes_at(mask + i) >> g / 2 & 1;
      put(out + 16 * g + i, by * numbers((bytes_at(q + i) >> g / 2 % 4 * 2 & 3) - 4 + 4 * kept));
    }
  }
}

/* The scale and the minimum of group g of 8, six bits each in twelve bytes. */
static inline void scale_min(const u8 *s, int g, int *scale, int *least) {
  if (g < 4) {
    *scale = s[g] & 63;
    *least = s[g + 4] & 63;
  } else {
    *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
    *least = s[g + 4] >> 4 | s[g] >> 6 << 4;
  }
}

static inline void values_q4_k(const u8 *p, float *out) {
  const float d = half(p), m = half(p + 2);
  for (int g = 0; g < 8; g++) {
    int scale, least;
    scale_min(p + 4, g, &scale, &least);
    const float by = d * (float)scale, off = m * (float)least;
    const u8 *q = p + 16 + g / 2 * 32;
    EACH(32) put(out + 32 * g + i, by * numbers(bytes_at(q + i) >> g % 2 * 4 & 15) - off);
  }
}

static inline void values_q5_k(const u8 *p, float *out) {
  const float d = half(p), m = half(p + 2);
  for (int g = 0; g < 8; g++) {
    int scale, least;
    scale_min(p + 4, g, &scale, &least);
    const float by = d * (float)scale, off = m * (float)least;
    const u8 *q = p + 48 + g / 2 * 32, *high = p + 16;
    EACH(32) {
      const ints above = bytes_at(high + i) >> g & 1;
      put(out + 32 * g + i, by * numbers((bytes_at(q + i) >> g % 2 * 4 & 15) | above << 4) - off);
    }
  }
}

static inline void values_q6_k(const u8 *p, float *out) {
  const float d = half(p + 208);
  for (int g = 0; g < 16; g++) {
    const float by = d * (float)(int8_t)p[192 + g];
    const u8 *q = p + g / 8 * 64 + g % 4 * 16, *high = p + 128 + g / 8 * 32 + g % 2 * 16;
    EACH(16) {
      const ints above = bytes_at(high + i) >> g / 2 % 4 * 2 & 3;
      put(out + 16 * g + i, by * numbers(((bytes_at(q + i) >> g / 4 % 2 * 4 & 15) | above << 4) - 32));
    }
  }
}

/* --- OCP MX, blocks of 32: the scale's byte, then the elements --- */

/* Sign, two bits of exponent, one of mantissa. */
static inline lanes e2m1(ints code) {
  const ints rest = code & 7, tiny = rest < 2;
  const ints bits = (rest << 22) + (126 << 23), half = (rest > 0) & 126 << 23;
  return (lanes)((tiny & half) | (~tiny & bits) | (code & 8) << 28);
}

static inline void values_mxfp4(const u8 *p, float *out) {
  const float d = power(p[0]);
  EACH(16) {
    const ints q = bytes_at(p + 1 + i);
    put(out + i, d * e2m1(q));
    put(out + 16 + i, d * e2m1(q >> 4));
  }
}

/* Sign, four bits of exponent, three of mantissa; no infinities, all ones is not a number. */
static inline lanes e4m3(ints code) {
  const ints rest = code & 0x7f, tiny = rest < 8, none = rest == 0x7f;
  const ints small = (ints)(numbers(rest) * 0x1p-9f), large = (rest << 20) + (120 << 23);
  return (lanes)((tiny & small) | (~tiny & large) | (none & 0x7fc00000) | (code & 0x80) << 24);
}

static inline void values_mxfp8(const u8 *p, float *out) {
  const float d = power(p[0]);
  EACH(32) put(out + i, d * e4m3(bytes_at(p + 1 + i)));
}

/* --- half widths, in blocks of 32 --- */

static inline void values_fp16(const u8 *p, float *out) {
#if defined(__AVX512F__)
  EACH(32) put(out + i, (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + 2 * i))));
#elif defined(__AVX2__) && defined(__F16C__)
  EACH(32) put(out + i, (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * i))));
#else
  for (int i = 0; i < 32; i++) out[i] = half(p + 2 * i);
#endif
}

static inline void values_bf16(const u8 *p, float *out) {
  EACH(32) put(out + i, (lanes)(shorts_at(p + 2 * i) << 16));
}

/* --- loops that all formats share --- */

static inline lanes fused(lanes a, lanes b, lanes c) {
#if defined(__AVX512F__)
  return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

static inline float sum(lanes values) {
  float part[LANES];
  memcpy(part, &values, sizeof part);
  for (int span = LANES / 2; span; span /= 2)
    for (int i = 0; i < span; i++) part[i] += part[i + span];
  return part[0];
}

/* To nearest, ties to even; what is not a number stays so. */
static inline void to_bf16(const float *values, int count, uint16_t *out) {
  EACH(count) {
    const ints bits = *(const ints *)(values + i), none = (bits & 0x7fffffff) > 0x7f800000;
    const ints up = bits + 0x7fff + (bits >> 16 & 1);
    const ints found = ((none & (bits | 0x400000)) | (~none & up)) >> 16 & 0xffff;
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi32_epi16((__m512i)found));
#else
    for (int l = 0; l < LANES; l++) out[i + l] = (uint16_t)found[l];
#endif
  }
}

typedef void values_function(const u8 *, float *);

__attribute__((always_inline)) static inline void expand_blocks(
    values_function *values, int elements, int bytes, const u8 *packed, int64_t blocks, void *out, int as_bf16,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks * elements >= LEAST_PARALLEL_ELEMENTS)
  for (int64_t b = 0; b < blocks; b++) {
    if (!as_bf16) {
      values(packed + b * bytes, (float *)out + b * elements);
      continue;
    }
    float held[MOST_ELEMENTS] __attribute__((aligned(64)));
    values(packed + b * bytes, held);
    to_bf16(held, elements, (uint16_t *)out + b * elements);
  }
}

/* Add the products of `count` values with those of `together` rows of x to their sums, even and odd lanes apart. */
__attribute__((always_inline)) static inline void accumulate(
    const float *held, int count, const float *x, int64_t columns, int together, lanes (*sums)[2]) {
  lanes even[TOGETHER], odd[TOGETHER];
  for (int n = 0; n < together; n++) even[n] = sums[n][0], odd[n] = sums[n][1];
  for (int i = 0; i < count; i += 2 * LANES) {
    const lanes first = *(const lanes *)(held + i), second = *(const lanes *)(held + i + LANES);
    for (int n = 0; n < together; n++) {
      even[n] = fused(first, *(const lanes *)(x + n * columns + i), even[n]);
      odd[n] = fused(second, *(const lanes *)(x + n * columns + i + LANES), odd[n]);
    }
  }
  for (int n = 0; n < together; n++) sums[n][0] = even[n], sums[n][1] = odd[n];
}

/* One row of weights with `width` rows of x. */
__attribute__((always_inline)) static inline void product_row(
    values_function *values, int elements, int bytes, const u8 *row, int64_t row_blocks, const float *x,
    int width, float *out, int64_t stride) {
  const int64_t columns = row_blocks * elements, most = MOST_ELEMENTS / elements;
  lanes sums[WIDEST][2];
  for (int n = 0; n < width; n++) sums[n][0] = sums[n][1] = (lanes){0};
  for (int64_t b = 0; b < row_blocks; b += most) {
    float held[MOST_ELEMENTS] __attribute__((aligned(64)));
    const int count = (int)(row_blocks - b < most ? row_blocks - b : most);
    for (int k = 0; k < count; k++) values(row + (b + k) * bytes, held + k * elements);
    const float *with = x + b * elements;
    int n = 0;
    for (; n + TOGETHER <= width; n += TOGETHER)
      accumulate(held, count * elements, with + n * columns, columns, TOGETHER, sums + n);
    for (; n < width; n++) accumulate(held, count * elements, with + n * columns, columns, 1, sums + n);
  }
  for (int n = 0; n < width; n++) out[n * stride] = sum(sums[n][0] + sums[n][1]);
}

__attribute__((always_inline)) static inline void product_rows(
    values_function *values, int elements, int bytes, const u8 *packed, int64_t rows, int64_t row_blocks,
    const float *x, int width, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * row_blocks * elements >= LEAST_PARALLEL_ELEMENTS)
  for (int64_t r = 0; r < rows; r++) {
    const u8 *row = packed + r * row_blocks * bytes;
    if (width == 1)
      product_row(values, elements, bytes, row, row_blocks, x, 1, out + r, rows);
    else
      product_row(values, elements, bytes, row, row_blocks, x, width, out + r, rows);
  }
}

#define FORMAT(name, elements, bytes)                                                                          \
  void expand_##name(const u8 *packed, int64_t blocks, void *out, int as_bf16, int threads) {                  \
    expand_blocks(values_##name, elements, bytes, packed, blocks, out, as_bf16, threads);                      \
  }                                                                                                            \
  void product_##name(const u8 *packed, int64_t rows, int64_t row_blocks, const float *x, int width,           \
                      float *out, int threads) {                                                               \
    product_rows(values_##name, elements, bytes, packed, rows, row_blocks, x, width, out, threads);            \
  }

FORMAT(q4_0, 32, 18)
FORMAT(q4_1, 32, 20)
FORMAT(q5_0, 32, 22)
FORMAT(q5_1, 32, 24)
FORMAT(q8_0, 32, 34)
FORMAT(q2_k, 256, 84)
FORMAT(q3_k, 256, 110)
FORMAT(q4_k, 256, 144)
FORMAT(q5_k, 256, 176)
FORMAT(q6_k, 256, 210)
FORMAT(mxfp4, 32, 17)
FORMAT(mxfp8, 32, 33)
FORMAT(fp16, 32, 64)
FORMAT(bf16, 32, 64)
