#include "pipeline/model_label.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "files/file.h"

enum { FILE_HASH = 10 };

/* "." and "model/.." have a name too. */
static void find_name(char *name, size_t size, const char *model)
{
    static const char ending[] = ".safetensors";
    char real[PATH_SIZE];
    snprintf(name, size, "%s", path_name(realpath(model, real) ? real : model));
    if (text_ends_with(name, ending))
        name[strlen(name) - strlen(ending)] = 0;
}

struct error model_label_read(struct model_label *label, struct pipeline *p)
{
    find_name(label->name, sizeof label->name, p->model);
    if (folder_exists(p->model)) {
        snprintf(label->hash, sizeof label->hash, "%08x", p->contents);
        return ok();
    }
    if (!p->file_hash[0])
        TRY(sha256_file(p->file_hash, p->model));
    snprintf(label->hash, sizeof label->hash, "%.*s", FILE_HASH, p->file_hash);
    return ok();
}
