#include "commands/version.h"

#include "base/pool.h"
#include "cluster/comm.h"
#include "device/device.h"

/* Its name, or why there is none. */
static void print_device(FILE *stream, const char *kind)
{
    struct device *device;
    struct error e = device_open(&device, kind, 0, pool_default_threads(1));
    if (e.code != ERROR_NONE) {
        fprintf(stream, "device: %s\n", e.text);
        return;
    }
    fprintf(stream, "device: %s\n", device_name(device));
    device_close(device);
}

void print_version(FILE *stream)
{
    fprintf(stream, "zoodip %s\n", ZOODIP_VERSION);
    print_device(stream, "cpu");
    print_device(stream, "cuda");
    fprintf(stream, "MPI: %s\n", comm_library());
    fprintf(stream, "NCCL: %s\nCUDA: %s\n", device_nccl(), device_cuda());
#if defined(__clang__)
    fprintf(stream, "compiler: %s\n", __VERSION__); // it names the compiler
#elif defined(__GNUC__)
    fprintf(stream, "compiler: gcc %s\n", __VERSION__);
#endif
}
