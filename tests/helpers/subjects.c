/* subjects PAGE.html < PAGE.json   a queue's page: {"name", "running", "written", "seconds", "left", "ranks", "groups",
 *                                  "rows": [{fields of struct subject_row}]}; what is absent is not known. On stdout:
 *                                  the milliseconds that writing it took
 */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "helper.h"
#include "report/subjects_page.h"

static double number(const cJSON *o, const char *key)
{
    const cJSON *value = cJSON_GetObjectItem(o, key);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static int count(const cJSON *o, const char *key)
{
    double value = number(o, key);
    return isnan(value) ? 0 : (int)value;
}

static const char *text(const cJSON *o, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItem(o, key));
}

static struct subject_row row_of(const cJSON *o)
{
    return (struct subject_row){
        .name = text(o, "name"),
        .state = text(o, "state"),
        .reason = text(o, "reason"),
        .ended = text(o, "ended"),
        .phase = text(o, "phase"),
        .where = text(o, "where"),
        .link = text(o, "link"),
        .thumbnail = cJSON_IsTrue(cJSON_GetObjectItem(o, "thumbnail")),
        .step = number(o, "step"),
        .steps = number(o, "steps"),
        .left = number(o, "left"),
        .first = number(o, "first"),
        .best = number(o, "best"),
        .best_step = number(o, "best_step"),
        .seconds = number(o, "seconds"),
        .turnaround = number(o, "turnaround"),
    };
}

static struct error write_page(const char *path, const cJSON *root)
{
    const cJSON *rows = cJSON_GetObjectItem(root, "rows"), *row;
    struct subject_row *items = memory_alloc(cJSON_GetArraySize(rows), sizeof *items);
    if (!items)
        return error_memory("the rows");
    struct subjects_page page = {
        .name = text(root, "name"),
        .running = cJSON_IsTrue(cJSON_GetObjectItem(root, "running")),
        .written = number(root, "written"),
        .seconds = number(root, "seconds"),
        .left = number(root, "left"),
        .ranks = count(root, "ranks"),
        .groups = count(root, "groups"),
        .rows = items,
    };
    cJSON_ArrayForEach(row, rows) items[page.count++] = row_of(row);
    double began = clock_seconds();
    struct error e = subjects_page_write(path, &page);
    printf("%.2f\n", 1000 * (clock_seconds() - began));
    memory_free(items);
    return e;
}

int main(int argc, char **argv)
{
    enum { LIMIT = 1 << 24 };
    char *input = memory_alloc(LIMIT, 1);
    struct error e = error_input("usage: subjects PAGE.html < PAGE.json");
    if (argc == 2 && input && fread(input, 1, LIMIT - 1, stdin) > 0) {
        cJSON *root = cJSON_Parse(input);
        e = root ? write_page(argv[1], root) : error_input("stdin: not JSON");
        cJSON_Delete(root);
    }
    memory_free(input);
    return helper_end("subjects", e);
}
