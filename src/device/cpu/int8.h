/* device/cpu/int8.h
 *
 * Products of codes of eight bits with sums of 32: of tangents' codes, a scale for each row and block of terms, and a
 * weight's. The sums are exact, so that every unit gives the same bits.
 */
#ifndef ZOODIP_DEVICE_CPU_INT8_H
#define ZOODIP_DEVICE_CPU_INT8_H

#include "device/cpu/kernels.h"

struct int8_unit {
    const char *name;

    int64_t terms; /* sums of a multiple of so many terms are the fastest */

    /* c [rows][panel] = (add ? c : 0) + row's scale * column's scale * (x w - excess). x [rows][stride] codes, rows and
     * count multiples of 4; columns [panel]; w [count / 4][panel][4], a weight's codes + 128 (panels are of 32 with AVX-512 and AMX, else of 16). */
    void (*multiply)(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes, const uint8_t *w,
                     const float *columns, int64_t rows, int64_t count, bool add);

    /* A network with so many channels or more is evaluated faster by tangents in codes than by evaluations, as
     * measured (results/README.md); 0: none is. */
    int64_t tangents_pay_from;

    bool taps; /* are 3x3 convolutions faster by all their multiplications than winograd.c's in float? */
};

/* The fastest unit that this processor has for panels of that width, or NULL. ZOODIP_INT8 names another (for tests). */
const struct int8_unit *int8_pick(int64_t panel);

#endif
