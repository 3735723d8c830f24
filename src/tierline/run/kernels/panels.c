/* Products of a few rows of bf16 with panels of int8 or int4, in whole numbers.
 *
 * A row of x becomes fixed point: 22 bits and a sign, as many as its greatest number needs, each in three
 * digits of 8 bits, which the processor multiplies with bytes of weights, four to a lane, and sums without
 * rounding. So numbers down to 2^-14 of the row's greatest are taken as they are (of rows whose greatest is
 * above 2^-100), and the sum of a row (int8) or of a group (int4) does not depend on its order: tiles,
 * threads and other rows of x do not change a bit. A row with a number that is not finite gives
 * not-a-number everywhere.
 *
 * Weights are read once, at the speed of memory; multiplying in fp32 takes four times the instructions.
 * Threads are OpenMP's: loaded beside torch, they are the threads that torch itself computes with.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 3
#define MOST_FIXED 21 /* the exponent of the greatest, as fixed point */
#define TOGETHER 4
#define LEAST_PARALLEL_BYTES 65536
#define AHEAD_BYTES 16384 /* memory is asked this far before it is used: 28 GB/s on two cores, 19 without */
#define FAILED 1

typedef uint8_t u8;
typedef uint16_t bf16;

/* One row of x: digit d of number k is digits[d * padded + k], from the lowest; zeros follow the last. */
struct fixed {
  int8_t *digits;
  int64_t *group_sums;
  float unit; /* what 1 stands for; not a number if a number of the row is not finite */
};

static inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline float wide(bf16 value) { return from_bits((uint32_t)value << 16); }

/* To nearest, ties to even; what is not a number stays so. */
static inline bf16 narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)(bits >> 16 | 0x40);
  return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static int64_t padded_to(int64_t columns) { return (columns + 63) / 64 * 64; }

static inline float power(int exponent) { return from_bits((uint32_t)(exponent + 127) << 23); }

/* The nearest whole number, ties to even, to one below 2^22: 1.5 * 2^23 more leaves no room for a fraction. */
static inline int32_t nearest(float value) {
  const float moved = value + 0x1.8p23f;
  int32_t bits;
  memcpy(&bits, &moved, 4);
  return bits - 0x4b400000;
}

static void fix(const bf16 *restrict x, int64_t columns, int64_t group, struct fixed *out) {
  const int64_t padded = padded_to(columns);
  uint32_t most = 0; /* bits of the greatest magnitude: ordered as the numbers are */
  for (int64_t k = 0; k < columns; k++) {
    const uint32_t magnitude = x[k] & 0x7fff;
    most = magnitude > most ? magnitude : most;
  }
  const int finite = most < 0x7f80, exponent = (int)(most >> 7) - 127;
  /* Rows of nothing but tiny numbers keep this power: the one they would have overflows. */
  const float by = finite ? power(MOST_FIXED - (exponent < -100 ? -100 : exponent)) : 0;
  out->unit = finite ? 1 / by : NAN;
  int8_t *restrict low = out->digits, *restrict middle = low + padded, *restrict high = middle + padded;
  for (int64_t first = 0; first < columns; first += group) {
    const int64_t last = columns - first < group ? columns : first + group;
    int64_t sum = 0;
    for (int64_t k = first; k < last; k++) {
      const int32_t whole = nearest(wide(x[k]) * by), rest = (whole + 128) >> 8;
      low[k] = (int8_t)whole, middle[k] = (int8_t)rest, high[k] = (int8_t)((rest + 128) >> 8);
      sum += whole;
    }
    out->group_sums[first / group] = sum;
  }
  for (int64_t k = columns; k < padded; k++) low[k] = middle[k] = high[k] = 0;
}

/* Return `width` rows in fixed point in one allocation, which free() gives back; NULL without memory. */
static struct fixed *fixed_rows(const bf16 *x, int width, int64_t columns, int64_t group) {
  const int64_t padded = padded_to(columns), groups = (columns + group - 1) / group;
  const int64_t row = DIGITS * padded + (groups * 8 + 63) / 64 * 64;
  const int64_t head = ((int64_t)sizeof(struct fixed) * width + 63) / 64 * 64;
  struct fixed *rows = aligned_alloc(64, (size_t)(head + row * width));
  if (!rows) return NULL;
  for (int n = 0; n < width; n++) {
    rows[n].digits = (int8_t *)rows + head + row * n;
    rows[n].group_sums = (int64_t *)(rows[n].digits + DIGITS * padded);
    fix(x + n * columns, columns, group, rows + n);
  }
  return rows;
}

/* --- int8: a row after another, a scale for each --- */

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define STEP 64
typedef __m512i lanes;
#define OP(name) _mm512_##name
#define LOAD(p) _mm512_loadu_si512((const void *)(p))
#define UNSIGNED(p) _mm512_xor_si512(LOAD(p), _mm512_set1_epi8((char)0x80))
#define DOT _mm512_dpbusd_epi32
static inline __m256i halved(lanes a) {
  return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
}
#elif defined(__AVXVNNI__)
#define STEP 32
typedef __m256i lanes;
#define OP(name) _mm256_##name
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define UNSIGNED(p) _mm256_xor_si256(LOAD(p), _mm256_set1_epi8((char)0x80))
#define DOT _mm256_dpbusd_avx_epi32
static inline __m256i halved(lanes a) { return a; }
#else
#error "this processor has no instruction that multiplies bytes and sums them"
#endif

/* The sums of the lanes of four. */
static inline __m128i added(lanes a, lanes b, lanes c, lanes d) {
  const lanes ab = OP(add_epi32)(OP(unpacklo_epi32)(a, b), OP(unpackhi_epi32)(a, b));
  const lanes cd = OP(add_epi32)(OP(unpacklo_epi32)(c, d), OP(unpackhi_epi32)(c, d));
  const __m256i half = halved(OP(add_epi32)(OP(unpacklo_epi64)(ab, cd), OP(unpackhi_epi64)(ab, cd)));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* The products of `count` rows of weights with one of x, as whole numbers. A weight is taken as w + 128. */
__attribute__((always_inline)) static inline void int8_rows(
    const int8_t *weights, int64_t columns, const struct fixed *x, int count, int64_t *out) {
  const int64_t padded = padded_to(columns), whole = columns / STEP * STEP;
  const int64_t together = TOGETHER * columns, ahead = (AHEAD_BYTES / together + 1) * together;
  lanes sums[TOGETHER][DIGITS];
  memset(sums, 0, sizeof sums);
  for (int64_t k = 0; k < whole; k += STEP) {
    lanes digits[DIGITS];
    for (int d = 0; d < DIGITS; d++) digits[d] = LOAD(x->digits + d * padded + k);
    for (int r = 0; r < count; r++) {
      const int8_t *p = weights + r * columns + k;
      _mm_prefetch((const char *)p + ahead, _MM_HINT_T1);
      const lanes codes = UNSIGNED(p);
      for (int d = 0; d < DIGITS; d++) sums[r][d] = DOT(sums[r][d], codes, digits[d]);
    }
  }
  int32_t totals[DIGITS][TOGETHER];
  for (int d = 0; d < DIGITS; d++)
    _mm_storeu_si128((__m128i *)totals[d], added(sums[0][d], sums[1][d], sums[2][d], sums[3][d]));
  for (int r = 0; r < count; r++) {
    int64_t found = -128 * x->group_sums[0];
    for (int d = 0; d < DIGITS; d++) found += (int64_t)totals[d][r] * (1 << 8 * d);
    for (int64_t k = whole; k < columns; k++)
      for (int d = 0; d < DIGITS; d++)
        found += ((int64_t)weights[r * columns + k] + 128) * x->digits[d * padded + k] * (1 << 8 * d);
    out[r] = found;
  }
}

static void int8_together(const int8_t *weights, const bf16 *scales, int64_t columns, int count,
                          const struct fixed *x, bf16 *out) {
  int64_t found[TOGETHER];
  if (count == TOGETHER)
    int8_rows(weights, columns, x, TOGETHER, found);
  else
    int8_rows(weights, columns, x, count, found);
  for (int r = 0; r < count; r++) out[r] = narrow((float)found[r] * x->unit * wide(scales[r]));
}

/* Rows of a tile that are taken together: `count` from `first` of a panel on. */
struct piece {
  const u8 *panel;
  int64_t panel_rows, first, count, row; /* `row` is the first's number in the tile */
};

/* Piece i of a tile whose panels of `most` rows are cut by `together`; count 0 where there is none. */
static inline struct piece piece_of(
    const u8 *tile, int64_t rows, int64_t most, int64_t row_bytes, int64_t together, int64_t i) {
  const int64_t each = (most + together - 1) / together, before = i / each * most, first = i % each * together;
  const int64_t panel_rows = rows - before < most ? rows - before : most, left = panel_rows - first;
  const int64_t count = left < 0 ? 0 : left < together ? left : together;
  return (struct piece){tile + before * row_bytes, panel_rows, first, count, before + first};
}

static inline int64_t pieces(int64_t rows, int64_t most, int64_t together) {
  return (rows + most - 1) / most * ((most + together - 1) / together);
}

/* out[n][r] = x[n] . row r * scale r, in bf16, for a tile of panels: int8 [n, columns], then a scale for each
 * row. Return 0, or FAILED without memory. */
int product_int8(const u8 *tile, int64_t rows, int64_t panel_rows, int64_t columns, const bf16 *x, int width,
                 bf16 *out, int threads) {
  struct fixed *fixed = fixed_rows(x, width, columns, columns);
  if (!fixed) return FAILED;
  const int64_t count = pieces(rows, panel_rows, TOGETHER);
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * columns >= LEAST_PARALLEL_BYTES)
  for (int64_t i = 0; i < count; i++) {
    const struct piece p = piece_of(tile, rows, panel_rows, columns + (int64_t)sizeof(bf16), TOGETHER, i);
    const int8_t *weights = (const int8_t *)p.panel + p.first * columns;
    const bf16 *scales = (const bf16 *)(p.panel + p.panel_rows * columns) + p.first;
    for (int n = 0; n < width; n++)
      int8_together(weights, scales, columns, (int)p.count, fixed + n, out + n * rows + p.row);
  }
  free(fixed);
  return 0;
}

/* --- int4: blocks of 64 rows, column by column, as torch packs them for AVX512 --- */

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define BLOCK 64
#define LANES 16
#define COMMON_GROUP 32

/* Of two columns of 32 bytes, each byte beside that of the other column; quarters in the order in which
 * unpacking two such pairs gives 16 rows, and the next 16. */
static __m512i beside(void) {
  u8 from[64];
  for (int quarter = 0; quarter < 4; quarter++)
    for (int i = 0; i < 8; i++) {
      const int row = i < 4 ? 4 * quarter + i : LANES + 4 * quarter + i - 4;
      from[16 * quarter + 2 * i] = (u8)row, from[16 * quarter + 2 * i + 1] = (u8)(32 + row);
    }
  return _mm512_loadu_si512(from);
}

/* A block's sums over one group, of 16 rows each: x . (code - 8), in units of x. */
__attribute__((always_inline)) static inline void int4_group(
    const u8 *packed, int64_t padded, int64_t group, const int8_t *digits, __m512i pairs, __m512 *out) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i sums[BLOCK / LANES][DIGITS];
  memset(sums, 0, sizeof sums);
#pragma GCC unroll 8 /* or sums are moved about between steps */
  for (int64_t k = 0; k < group; k += 4) {
    const u8 *p = packed + k * BLOCK / 2;
    _mm_prefetch((const char *)p + AHEAD_BYTES, _MM_HINT_T1);
    _mm_prefetch((const char *)p + AHEAD_BYTES + 64, _MM_HINT_T1);
    const __m512i first = _mm512_permutexvar_epi8(pairs, _mm512_loadu_si512(p));
    const __m512i second = _mm512_permutexvar_epi8(pairs, _mm512_loadu_si512(p + 64));
    const __m512i low = _mm512_unpacklo_epi16(first, second), high = _mm512_unpackhi_epi16(first, second);
    const __m512i codes[BLOCK / LANES] = {
        _mm512_and_si512(low, nibble), _mm512_and_si512(high, nibble),
        _mm512_and_si512(_mm512_srli_epi16(low, 4), nibble), _mm512_and_si512(_mm512_srli_epi16(high, 4), nibble)};
    for (int d = 0; d < DIGITS; d++) {
      int32_t four;
      memcpy(&four, digits + d * padded + k, 4);
      const __m512i x = _mm512_set1_epi32(four);
      for (int i = 0; i < BLOCK / LANES; i++) sums[i][d] = _mm512_dpbusd_epi32(sums[i][d], codes[i], x);
    }
  }
  for (int i = 0; i < BLOCK / LANES; i++) {
    const __m512i low = _mm512_add_epi32(sums[i][0], _mm512_slli_epi32(sums[i][1], 8));
    out[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][2]), _mm512_set1_ps(0x1p16f), _mm512_cvtepi32_ps(low));
  }
}

/* out[r] = the sum over groups of (x . (code - 8)) * scale + sum(x) * zero, for the 64 rows of a block. */
__attribute__((always_inline)) static inline void int4_block(
    const u8 *packed, const bf16 *pairs, int64_t rows, int64_t columns, int64_t group, const struct fixed *x,
    __m512i order, bf16 *out) {
  const int64_t padded = padded_to(columns);
  __m512 totals[BLOCK / LANES];
  memset(totals, 0, sizeof totals);
  for (int64_t g = 0; g < columns / group; g++) {
    const __m512 sum = _mm512_set1_ps((float)x->group_sums[g]);
    __m512 found[BLOCK / LANES];
    int4_group(packed + g * group * BLOCK / 2, padded, group, x->digits + g * group, order, found);
    for (int i = 0; i < BLOCK / LANES; i++) {
      const bf16 *p = pairs + (g * rows + i * LANES) * 2;
      _mm_prefetch((const char *)(p + BLOCK * 2), _MM_HINT_T0); /* the next block's */
      const __m512i both = _mm512_loadu_si512(p);
      const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
      const __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
      const __m512 centred = _mm512_fnmadd_ps(sum, _mm512_set1_ps(8), found[i]);
      totals[i] = _mm512_fmadd_ps(scale, centred, _mm512_fmadd_ps(zero, sum, totals[i]));
    }
  }
  for (int i = 0; i < BLOCK / LANES; i++) {
    float values[LANES];
    _mm512_storeu_ps(values, _mm512_mul_ps(totals[i], _mm512_set1_ps(x->unit)));
    for (int l = 0; l < LANES; l++) out[i * LANES + l] = narrow(values[l]);
  }
}

/* As product_int8, for panels of whole blocks: int4 [n, columns / 2], then [columns / group, n, 2] scales and
 * zeros. */
int product_int4(const u8 *tile, int64_t rows, int64_t panel_rows, int64_t columns, int64_t group, const bf16 *x,
                 int width, bf16 *out, int threads) {
  struct fixed *fixed = fixed_rows(x, width, columns, group);
  if (!fixed) return FAILED;
  const __m512i order = beside();
  const int64_t count = pieces(rows, panel_rows, BLOCK), pair_bytes = 2 * (int64_t)sizeof(bf16);
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * columns / 2 >= LEAST_PARALLEL_BYTES)
  for (int64_t i = 0; i < count; i++) {
    const struct piece p =
        piece_of(tile, rows, panel_rows, columns / 2 + columns / group * pair_bytes, BLOCK, i);
    const bf16 *pairs = (const bf16 *)(p.panel + p.panel_rows * columns / 2) + p.first * 2;
    const u8 *packed = p.panel + p.first * columns / 2;
    for (int n = 0; n < width && p.count; n++)
      if (group == COMMON_GROUP) /* a seventh faster where the compiler knows it */
        int4_block(packed, pairs, p.panel_rows, columns, COMMON_GROUP, fixed + n, order, out + n * rows + p.row);
      else
        int4_block(packed, pairs, p.panel_rows, columns, group, fixed + n, order, out + n * rows + p.row);
  }
  free(fixed);
  return 0;
}
#endif
