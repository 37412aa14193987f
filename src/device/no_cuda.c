/* Linked in place of kernels/ if there is no CUDA toolkit. */
#include "device/kinds.h"

struct error cuda_open(struct device **device, int index, int threads)
{
    (void)device;
    (void)index;
    (void)threads;
    return error_input("this zoodip was built without CUDA");
}

const char *cuda_libraries(void)
{
    return "NCCL: not built in\nCUDA: not built in\n";
}
