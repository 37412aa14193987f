/* contents MODEL_DIR THREADS   the CRC-32 of the model's tensors, in hexadecimal */
#include "helper.h"
#include "model/contents.h"

int main(int argc, char **argv)
{
    if (argc != 3)
        return 1;
    uint32_t crc;
    struct error e = contents_tensors(argv[1], atoi(argv[2]), &crc);
    if (e.code == ERROR_NONE)
        printf("%08x\n", crc);
    return helper_end("contents", e);
}
