/* safetensors IN OUT: reads a file, or a sharded set by its index, and writes what it holds as one file. */
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"

static struct error run(int argc, char **argv)
{
    struct safetensors file;
    if (argc != 3)
        return error_input("usage: safetensors IN OUT");
    TRY(safetensors_open(&file, argv[1]));
    struct error e = safetensors_write(argv[2], file.entries, file.entry_count, (const char *const *)file.metadata,
                                       file.metadata_count);
    safetensors_close(&file);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("safetensors", run(argc, argv));
}
