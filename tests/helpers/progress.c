/* progress FIRST TOTAL STOP MILLISECONDS: shows steps FIRST+1 .. STOP of TOTAL, each MILLISECONDS long. */
#include <stdlib.h>
#include <unistd.h>

#include "base/progress.h"
#include "helper.h"

int main(int argc, char **argv)
{
    if (argc != 5)
        return helper_end("progress", error_input("usage: progress FIRST TOTAL STOP MILLISECONDS"));
    struct progress progress;
    progress_begin(&progress, "learning sks", atoi(argv[1]), atoi(argv[2]), false);
    for (int step = atoi(argv[1]) + 1; step <= atoi(argv[3]); step++) {
        usleep((useconds_t)atoi(argv[4]) * 1000);
        progress_step(&progress, step, "loss 0.0214");
    }
    progress_end(&progress);
    return 0;
}
