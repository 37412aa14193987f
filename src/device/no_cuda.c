#include "device/backend.h"

/* Linked in place of kernels/ if there is no CUDA toolkit. */

struct error cuda_open(struct device **device, int index, int threads)
{
    (void)device;
    (void)index;
    (void)threads;
    return error_input("this zoodip was built without CUDA");
}

const char *device_cuda(void)
{
    return "not built in";
}

const char *device_nccl(void)
{
    return "not built in";
}
