// What this machine's cores do at most: bytes read per second from memory, and multiply-adds per second of bytes and of f32.
// cc -O3 -march=native -pthread probe.c -o probe; probe THREADS prints the three as one line of JSON.
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MIB = 256, ROUNDS = 4 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static volatile uint64_t kept;

static void *reads(void *p) {
    const uint64_t *words = p;
    size_t n = (size_t)MIB << 17;
    uint64_t sums[32] = {0};
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < n; i += 32)
            for (int j = 0; j < 32; j++) sums[j] ^= words[i + j];
    for (int j = 0; j < 32; j++) kept ^= sums[j];
    return NULL;
}

enum { LOOPS = 20000000 };

static void *floats(void *p) {
    (void)p;
#ifdef __AVX512F__
    __m512 a[12], x = _mm512_set1_ps(1.0001f), y = _mm512_set1_ps(0.0001f);
    for (int i = 0; i < 12; i++) a[i] = _mm512_set1_ps(i);
    for (int n = 0; n < LOOPS / 12; n++) {
        for (int i = 0; i < 12; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 0; i < 12; i++) kept ^= (uint64_t)_mm512_reduce_add_ps(a[i]);
#else
    __m256 a[12], x = _mm256_set1_ps(1.0001f), y = _mm256_set1_ps(0.0001f);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps(i);
    for (int n = 0; n < LOOPS / 12; n++) {
        for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
        __asm__ volatile("" : "+x"(x));
    }
    float out[8];
    for (int i = 0; i < 12; i++) { _mm256_storeu_ps(out, a[i]); kept ^= (uint64_t)out[0]; }
#endif
    return NULL;
}

static void *bytes(void *p) {
    (void)p;
#ifdef __AVX512VNNI__
    __m512i a[12], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    for (int i = 0; i < 12; i++) a[i] = _mm512_set1_epi32(i);
    for (int n = 0; n < LOOPS / 12; n++) {
        for (int i = 0; i < 12; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 0; i < 12; i++) kept ^= (uint64_t)_mm512_reduce_add_epi32(a[i]);
#else
    __m256i a[12], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5), one = _mm256_set1_epi16(1);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_epi32(i);
    for (int n = 0; n < LOOPS / 12; n++) {
        for (int i = 0; i < 12; i++)
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), one));
        __asm__ volatile("" : "+x"(x));
    }
    int out[8];
    for (int i = 0; i < 12; i++) { _mm256_storeu_si256((__m256i *)out, a[i]); kept ^= out[0]; }
#endif
    return NULL;
}

// The best of three: seconds that all threads take together.
static double seconds(int threads, void *(*work)(void *), void **with) {
    double best = 1e9;
    for (int again = 0; again < 3; again++) {
        pthread_t t[64];
        double start = now();
        for (int i = 0; i < threads; i++) pthread_create(&t[i], NULL, work, with[i]);
        for (int i = 0; i < threads; i++) pthread_join(t[i], NULL);
        double took = now() - start;
        if (took < best) best = took;
    }
    return best;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > 64) return 2;
    void *with[64];
    for (int i = 0; i < threads; i++) {
        with[i] = aligned_alloc(64, (size_t)MIB << 20);
        if (!with[i]) return 1;
        memset(with[i], i + 1, (size_t)MIB << 20);
    }
#ifdef __AVX512F__
    double f = 16;
#else
    double f = 8;
#endif
#ifdef __AVX512VNNI__
    double b = 64;
#else
    double b = 32;
#endif
    double rate = threads * ROUNDS * (double)MIB * 1048576 / seconds(threads, reads, with);
    double macs = threads * (double)(LOOPS / 12 * 12) * f / seconds(threads, floats, with);
    double byte_macs = threads * (double)(LOOPS / 12 * 12) * b / seconds(threads, bytes, with);
    printf("{\"bytes_per_s\": %.4g, \"f32_macs_per_s\": %.4g, \"int8_macs_per_s\": %.4g}\n", rate, macs, byte_macs);
    return 0;
}
