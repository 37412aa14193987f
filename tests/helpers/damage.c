/* damage KIND < PATHS: reads each of the files (or folders) named on stdin as KIND, and prints a line for each: exit
 * code, tab, error text. Built with sanitizers and given damaged files by test_damaged_files.py. damage make-checkpoint
 * < FOLDERS: writes a valid checkpoint into each, to be damaged. */
#include <stdio.h>
#include <string.h>

#include "helper.h"
#include "readers.h"

static struct error make_checkpoint(const char *folder)
{
    struct state s;
    TRY(new_state(&s));
    s.step = 7;
    struct error e = checkpoint_write(&s, folder, "recipe", 0);
    state_free(&s);
    return e;
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
