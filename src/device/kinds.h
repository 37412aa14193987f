/* device/kinds.h
 *
 * The kinds of device that a program was built with, which its main hands down to device_open. No other file refers to
 * the GPU's library. A new kind is an opener and a row.
 */
#ifndef ZOODIP_DEVICE_KINDS_H
#define ZOODIP_DEVICE_KINDS_H

#include <stddef.h>

#include "device/device.h"

/* device/cpu/cpu.c */
struct error cpu_open(struct device **device, int index, int threads);

/* kernels/, or device/no_cuda.c in a build without CUDA */
struct error cuda_open(struct device **device, int index, int threads);
const char *cuda_libraries(void);

/* "auto" prefers the first. The CPU, which always works, is the last. */
static inline const struct device_kind *device_kinds(void)
{
    static const struct device_kind kinds[] = {
        {"cuda", cuda_open, cuda_libraries}, {"cpu", cpu_open, NULL}, {NULL, NULL, NULL}};
    return kinds;
}

#endif
