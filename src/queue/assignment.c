#include "queue/assignment.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "base/memory.h"
#include "files/json.h"

struct error assignment_write(const struct job *job, char **text)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", job->name);
    cJSON_AddNumberToObject(o, "start", job->start);
    cJSON_AddBoolToObject(o, "announced", job->announced);
    cJSON_AddNumberToObject(o, "submitted", job->submitted);
    bool whole = cJSON_AddRawToObject(o, "keys", job->keys) != NULL; // the last one, so the others are there, too
    char *printed = whole ? cJSON_PrintUnformatted(o) : NULL;
    *text = printed ? memory_string(printed) : NULL;
    cJSON_free(printed);
    cJSON_Delete(o);
    return *text ? ok() : error_memory("a job");
}

static struct error read_object(struct job *job, const struct jobs *jobs, const cJSON *o)
{
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "name"));
    const cJSON *keys = cJSON_GetObjectItemCaseSensitive(o, "keys");
    job->name = name ? memory_string(name) : NULL;
    if (!job->name || !keys)
        return error_memory("a job");
    job->start = (enum start)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(o, "start"));
    job->announced = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "announced"));
    job->submitted = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(o, "submitted"));
    return job_read_keys(jobs, job, keys);
}

struct error assignment_read(struct job *job, const struct jobs *jobs, const char *text, int64_t index)
{
    cJSON *object;
    *job = (struct job){.sources = -1, .status = job_status_unknown(index)};
    TRY(json_parse(&object, "a job", text, (int64_t)strlen(text)));
    struct error e = read_object(job, jobs, object);
    cJSON_Delete(object);
    return e;
}
