// Group normalisation with what stands around it in one pass, for the CPU: y = act(norm(x + add) * gain + offset).
// Plain C interface, no torch: compiled at the first use, where there is a compiler (see native.py).
//
// x is (B, P, C), P pixels, channels last. add, gain and offset are (B, C) or null; the norm's own weight and bias
// stand in `weight` and `bias` (C). Sums are taken about each channel's first value, in blocks of float joined in
// double: the mean may be much larger than the spread.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

struct bf16 {
  uint16_t bits;
};

inline float load(const float* p, int64_t i) { return p[i]; }

inline float load(const bf16* p, int64_t i) {
  uint32_t wide = static_cast<uint32_t>(p[i].bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline void store(float* p, int64_t i, float value) { p[i] = value; }

inline void store(bf16* p, int64_t i, float value) {
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;  // to nearest, ties to even
  p[i].bits = value != value ? 0x7fc0u : static_cast<uint16_t>(rounded);
}

// e^x to 2 units in the last place: Cody and Waite's reduction, the usual polynomial of degree 5 on [-ln 2 / 2, ln 2 / 2].
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float n = std::nearbyint(x * 1.44269504088896341f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t power = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, 4);
  return p * scale;
}

inline float silu(float z) { return z / (1.0f + exponential(-z)); }

const int BLOCK = 64;     // pixels summed in float
const int PIECE = 16384;  // numbers that one thread takes at a time

// Sums of (x - first) and its square over pixels [from, to), added to one pair of doubles a channel.
template <typename T>
void sums(const T* x, int64_t from, int64_t to, int C, const float* first, double* sum, double* square, float* room) {
  float *s = room, *q = room + C;
  for (int64_t start = from; start < to; start += BLOCK) {
    int64_t end = start + BLOCK < to ? start + BLOCK : to;
    std::memset(room, 0, 2 * C * sizeof(float));
    for (int64_t p = start; p < end; ++p) {
      const T* row = x + p * C;
#pragma omp simd
      for (int c = 0; c < C; ++c) {
        float d = load(row, c) - first[c];
        s[c] += d;
        q[c] += d * d;
      }
    }
    for (int c = 0; c < C; ++c) {
      sum[c] += s[c];
      square[c] += q[c];
    }
  }
}

// From sums to y = x * scale + shift.
void fit(int64_t P, int C, int G, float eps, const float* first, const double* sum, const double* square,
         const float* weight, const float* bias, const float* add, const float* gain, const float* offset, float* scale,
         float* shift) {
  int each = C / G;
  for (int g = 0; g < G; ++g) {
    double mean = 0;
    for (int c = g * each; c < (g + 1) * each; ++c) mean += first[c] + sum[c] / P + (add ? add[c] : 0.0f);
    mean /= each;
    double spread = 0;
    for (int c = g * each; c < (g + 1) * each; ++c) {
      double own = sum[c] / P, away = first[c] + own + (add ? add[c] : 0.0f) - mean;
      spread += square[c] / P - own * own + away * away;
    }
    double rstd = 1.0 / std::sqrt(spread / each + eps);
    for (int c = g * each; c < (g + 1) * each; ++c) {
      double k = weight[c] * (gain ? 1.0 + gain[c] : 1.0);
      double b = bias[c] * (gain ? 1.0 + gain[c] : 1.0) + (offset ? offset[c] : 0.0f);
      scale[c] = static_cast<float>(k * rstd);
      shift[c] = static_cast<float>(b - (mean - (add ? add[c] : 0.0f)) * k * rstd);
    }
  }
}

template <typename T, bool ACT>
void apply(const T* x, T* y, int64_t from, int64_t to, int C, const float* scale, const float* shift) {
  for (int64_t p = from; p < to; ++p) {
    const T* in = x + p * C;
    T* out = y + p * C;
#pragma omp simd
    for (int c = 0; c < C; ++c) {
      float z = load(in, c) * scale[c] + shift[c];
      store(out, c, ACT ? silu(z) : z);
    }
  }
}

template <typename T>
void group_norm(const T* x, T* y, int64_t B, int64_t P, int C, int G, float eps, const float* weight, const float* bias,
                const float* add, const float* gain, const float* offset, int64_t stride, bool act, int threads) {
  // Pieces depend on the picture alone, so that the sums are the same to the bit for any number of threads.
  int64_t piece = PIECE / C > 0 ? PIECE / C : 1, pieces = (P + piece - 1) / piece;
  std::vector<float> first(B * C), scale(B * C), shift(B * C);
  std::vector<double> parts(static_cast<size_t>(B) * pieces * 2 * C, 0.0);
  for (int64_t b = 0; b < B; ++b)
    for (int c = 0; c < C; ++c) first[b * C + c] = load(x + b * P * C, c);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> room(2 * C);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < B * pieces; ++i) {
      int64_t b = i / pieces, from = i % pieces * piece, to = from + piece < P ? from + piece : P;
      double* sum = parts.data() + static_cast<size_t>(i) * 2 * C;
      sums(x + b * P * C, from, to, C, &first[b * C], sum, sum + C, room.data());
    }
#pragma omp for schedule(static)
    for (int64_t b = 0; b < B; ++b) {
      double* sum = parts.data() + static_cast<size_t>(b) * pieces * 2 * C;
      for (int64_t i = 1; i < pieces; ++i)
        for (int c = 0; c < 2 * C; ++c) sum[c] += sum[i * 2 * C + c];
      fit(P, C, G, eps, &first[b * C], sum, sum + C, weight, bias, add ? add + b * stride : nullptr,
          gain ? gain + b * stride : nullptr, offset ? offset + b * stride : nullptr, &scale[b * C], &shift[b * C]);
    }
    // As before, so that a thread finds the piece that it has summed in its own cache.
#pragma omp for schedule(static)
    for (int64_t i = 0; i < B * pieces; ++i) {
      int64_t b = i / pieces, from = i % pieces * piece, to = from + piece < P ? from + piece : P;
      const T* in = x + b * P * C;
      T* out = y + b * P * C;
      if (act)
        apply<T, true>(in, out, from, to, C, &scale[b * C], &shift[b * C]);
      else
        apply<T, false>(in, out, from, to, C, &scale[b * C], &shift[b * C]);
    }
  }
}

// What a group's channel becomes: z = (x + add) * k + s, with k = rstd * weight (1 + gain) and s its shift.
struct Channel {
  float mean, rstd, weight, shift;  // of x without add: x's own part of the mean; weight and shift after 1 + gain

  Channel(int c, const float* weights, const float* biases, const float* add, const float* gain, const float* offset,
          float group_mean, float group_rstd)
      : mean(group_mean - (add ? add[c] : 0.0f)),
        rstd(group_rstd),
        weight(weights[c] * (gain ? 1.0f + gain[c] : 1.0f)),
        shift(biases[c] * (gain ? 1.0f + gain[c] : 1.0f) + (offset ? offset[c] : 0.0f)) {}
};

// For training: x is (B, C, P), channels first; a group of an image is one piece of memory.
template <typename T, bool ACT>
void train_forward(const T* x, T* y, int64_t B, int64_t P, int C, int G, float eps, const float* weight,
                   const float* bias, const float* add, const float* gain, const float* offset, int64_t stride,
                   float* means, float* rstds, int threads) {
  int each = C / G;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < B * G; ++i) {
    int64_t b = i / G, g = i % G;
    const float* more = add ? add + b * stride : nullptr;
    double mean = 0, spread = 0;
    std::vector<double> own(each);
    for (int c = 0; c < each; ++c) {
      const T* in = x + ((b * C) + g * each + c) * P;
      float first = load(in, 0);
      double sum = 0, square = 0;
      for (int64_t start = 0; start < P; start += 1024) {
        int64_t end = start + 1024 < P ? start + 1024 : P;
        float s = 0, q = 0;
#pragma omp simd reduction(+ : s, q)
        for (int64_t p = start; p < end; ++p) {
          float d = load(in, p) - first;
          s += d;
          q += d * d;
        }
        sum += s;
        square += q;
      }
      own[c] = first + sum / P + (more ? more[g * each + c] : 0.0f);
      spread += square - sum * sum / P;
      mean += own[c];
    }
    mean /= each;
    for (int c = 0; c < each; ++c) spread += P * (own[c] - mean) * (own[c] - mean);
    float rstd = static_cast<float>(1.0 / std::sqrt(spread / (each * static_cast<double>(P)) + eps));
    means[i] = static_cast<float>(mean);
    rstds[i] = rstd;
    for (int c = 0; c < each; ++c) {
      Channel at(g * each + c, weight, bias, more, gain ? gain + b * stride : nullptr,
                 offset ? offset + b * stride : nullptr, means[i], rstd);
      const T* in = x + ((b * C) + g * each + c) * P;
      T* out = y + ((b * C) + g * each + c) * P;
#pragma omp simd
      for (int64_t p = 0; p < P; ++p) {
        float z = (load(in, p) - at.mean) * at.rstd * at.weight + at.shift;
        store(out, p, ACT ? silu(z) : z);
      }
    }
  }
}

// dx; and of every image and channel the sums of dz, of dz * normalised x, and of dx.
template <typename T, bool ACT>
void train_backward(const T* dy, const T* x, T* dx, int64_t B, int64_t P, int C, int G, const float* weight,
                    const float* bias, const float* add, const float* gain, const float* offset, int64_t stride,
                    const float* means, const float* rstds, float* sums, int threads) {
  int each = C / G;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> room(each * P);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < B * G; ++i) {
      int64_t b = i / G, g = i % G;
      double first = 0, second = 0;
      std::vector<double> normal(each);
      for (int c = 0; c < each; ++c) {
        int64_t row = b * C + g * each + c;
        Channel at(g * each + c, weight, bias, add ? add + b * stride : nullptr, gain ? gain + b * stride : nullptr,
                   offset ? offset + b * stride : nullptr, means[i], rstds[i]);
        const T *in = x + row * P, *up = dy + row * P;
        float* dz = room.data() + c * P;
        double one = 0, two = 0, all = 0;
        for (int64_t start = 0; start < P; start += 1024) {
          int64_t end = start + 1024 < P ? start + 1024 : P;
          float a = 0, h = 0, n = 0;
#pragma omp simd reduction(+ : a, h, n)
          for (int64_t p = start; p < end; ++p) {
            float v = (load(in, p) - at.mean) * at.rstd, d = load(up, p);
            if (ACT) {
              float z = v * at.weight + at.shift, q = 1.0f / (1.0f + exponential(-z));
              d *= q * (1.0f + z * (1.0f - q));
            }
            dz[p] = d;
            a += d;
            h += d * v;
            n += v;
          }
          one += a;
          two += h;
          all += n;
        }
        sums[row] = static_cast<float>(one);
        sums[B * C + row] = static_cast<float>(two);
        normal[c] = all;
        first += at.weight * one;
        second += at.weight * two;
      }
      float m = static_cast<float>(first / (each * static_cast<double>(P)));
      float q = static_cast<float>(second / (each * static_cast<double>(P)));
      for (int c = 0; c < each; ++c) {
        int64_t row = b * C + g * each + c;
        Channel at(g * each + c, weight, bias, add ? add + b * stride : nullptr, gain ? gain + b * stride : nullptr,
                   offset ? offset + b * stride : nullptr, means[i], rstds[i]);
        const T* in = x + row * P;
        const float* dz = room.data() + c * P;
        T* down = dx + row * P;
#pragma omp simd
        for (int64_t p = 0; p < P; ++p) {
          float v = (load(in, p) - at.mean) * at.rstd;
          store(down, p, at.rstd * (dz[p] * at.weight - m - v * q));
        }
        sums[2 * B * C + row] = static_cast<float>(at.rstd * (at.weight * sums[row] - P * m - normal[c] * q));
      }
    }
  }
}

}  // namespace

extern "C" {

// half: whether x and y are bfloat16 instead of float. add, gain and offset are rows of `stride` numbers.
void guided_group_norm(const void* x, void* y, int half, int64_t B, int64_t P, int C, int G, float eps,
                       const float* weight, const float* bias, const float* add, const float* gain,
                       const float* offset, int64_t stride, int act, int threads) {
  if (half)
    group_norm(static_cast<const bf16*>(x), static_cast<bf16*>(y), B, P, C, G, eps, weight, bias, add, gain, offset,
               stride, act != 0, threads);
  else
    group_norm(static_cast<const float*>(x), static_cast<float*>(y), B, P, C, G, eps, weight, bias, add, gain, offset,
               stride, act != 0, threads);
}

// The same with channels first; mean and rstd (B, G) are kept for the way back.
void guided_train_forward(const void* x, void* y, int half, int64_t B, int64_t P, int C, int G, float eps,
                          const float* weight, const float* bias, const float* add, const float* gain,
                          const float* offset, int64_t stride, int act, float* mean, float* rstd, int threads) {
  auto run = [&](auto kind, auto acts) {
    using T = decltype(kind);
    train_forward<T, decltype(acts)::value>(static_cast<const T*>(x), static_cast<T*>(y), B, P, C, G, eps, weight, bias,
                                            add, gain, offset, stride, mean, rstd, threads);
  };
  if (half)
    act ? run(bf16(), std::true_type()) : run(bf16(), std::false_type());
  else
    act ? run(float(), std::true_type()) : run(float(), std::false_type());
}

// sums (3, B, C): of dz, of dz times the normalised x, and of dx.
void guided_train_backward(const void* dy, const void* x, void* dx, int half, int64_t B, int64_t P, int C, int G,
                           const float* weight, const float* bias, const float* add, const float* gain,
                           const float* offset, int64_t stride, int act, const float* mean, const float* rstd,
                           float* sums, int threads) {
  auto run = [&](auto kind, auto acts) {
    using T = decltype(kind);
    train_backward<T, decltype(acts)::value>(static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<T*>(dx), B,
                                             P, C, G, weight, bias, add, gain, offset, stride, mean, rstd, sums,
                                             threads);
  };
  if (half)
    act ? run(bf16(), std::true_type()) : run(bf16(), std::false_type());
  else
    act ? run(float(), std::true_type()) : run(float(), std::false_type());
}

}
