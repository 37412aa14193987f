/* damage KIND < PATHS: reads each of the files (or folders) named on stdin as KIND, and prints a line for each: exit
 * code, tab, error text. Built with sanitizers and given damaged files by test_damaged_files.py. damage make-checkpoint
 * < FOLDERS: writes two valid checkpoints into each, one that fits what is read and one of a longer tau. */
#include <stdio.h>
#include <string.h>

#include "helper.h"
#include "readers.h"

/* Its history is full, so that the one of a longer tau does not fit where it is read. */
static struct error make_one(const char *folder, int64_t step, int64_t tau)
{
    struct state s;
    TRY(state_new(&s, STATE_DIM, tau, 1e-3));
    s.step = step;
    s.subspace.filled = tau - 1;
    struct error e = checkpoint_write(&s, folder, &checkpoint_origin, 0);
    state_free(&s);
    return e;
}

static struct error make_checkpoint(const char *folder)
{
    TRY(make_one(folder, 7, STATE_TAU));
    return make_one(folder, 8, 8 * STATE_TAU);
}

static const struct {
    const char *name;
    struct error (*read)(const char *path);
} kinds[] = {
    {"safetensors", read_safetensors},
    {"picture", read_picture},
    {"config", read_config},
    {"json", read_json},
    {"tokenizer", read_tokenizer},
    {"checkpoint", read_checkpoint},
    {"make-checkpoint", make_checkpoint},
};

int main(int argc, char **argv)
{
    char path[PATH_SIZE];
    for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, argv[1]) != 0)
            continue;
        while (fgets(path, sizeof path, stdin)) {
            path[strcspn(path, "\n")] = 0;
            struct error e = kinds[i].read(path);
            printf("%d\t%s\n", e.code, e.text);
            fflush(stdout);
        }
        return 0;
    }
    return helper_end("damage", error_input("usage: damage KIND < PATHS"));
}
