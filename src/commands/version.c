#include "commands/version.h"

#include "base/pool.h"
#include "cluster/comm.h"
#include "device/device.h"

void print_version(FILE *stream)
{
    fprintf(stream, "zoodip %s\n", ZOODIP_VERSION);
    struct device *device;
    struct error e = device_open(&device, "cpu", 0, pool_default_threads(1));
    fprintf(stream, "device: %s\n", e.code == ERROR_NONE ? device_name(device) : e.text);
    if (e.code == ERROR_NONE)
        device_close(device);
    fprintf(stream, "MPI: %s\n", comm_library());
    fprintf(stream, "NCCL: %s\nCUDA: %s\n", device_nccl(), device_cuda());
#ifdef __VERSION__
    fprintf(stream, "compiler: %s\n", __VERSION__);
#endif
}
