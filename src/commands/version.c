#include "commands/version.h"

#include "base/pool.h"
#include "cluster/comm.h"
#include "files/picture_formats.h"

/* Its name, or why there is none. */
static void print_device(FILE *stream, const struct device_kind *devices, const char *kind)
{
    struct device *device;
    struct error e = device_open(&device, devices, kind, 0, pool_default_threads(1));
    if (e.code != ERROR_NONE) {
        fprintf(stream, "device: %s\n", e.text);
        return;
    }
    fprintf(stream, "device: %s\n", device_name(device));
    device_close(device);
}

void version_print(FILE *stream, const struct device_kind *devices)
{
    fprintf(stream, "zoodip %s\n", ZOODIP_VERSION);
    print_device(stream, devices, "cpu");
    print_device(stream, devices, "cuda");
    fprintf(stream, "MPI: %s\n", comm_library());
    picture_formats_print(stream);
    for (const struct device_kind *kind = devices; kind->name; kind++)
        if (kind->libraries)
            fprintf(stream, "%s", kind->libraries());
#if defined(__clang__)
    fprintf(stream, "compiler: %s\n", __VERSION__); // it names the compiler
#elif defined(__GNUC__)
    fprintf(stream, "compiler: gcc %s\n", __VERSION__);
#endif
}
