/* config [--recipe] CONFIG.json [KEY=VALUE]...   the effective config, or the line that a resume compares
 * config --help                                  the keys */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/config.h"
#include "helper.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        config_help(stdout);
        return 0;
    }
    bool recipe = argc > 1 && strcmp(argv[1], "--recipe") == 0;
    int first = recipe ? 2 : 1;
    if (argc <= first)
        return helper_end("config", error_input("usage: config [--recipe] CONFIG.json [KEY=VALUE]..."));
    const struct text_list sets = {(const char **)argv + first + 1, argc - first - 1};
    struct config config;
    struct error e = config_read(&config, argv[first], &sets);
    if (e.code != ERROR_NONE)
        return helper_end("config", e);
    char *text = recipe ? config_recipe(&config) : config_json(&config);
    if (text)
        fputs(text, stdout);
    config_free(&config);
    memory_free(text);
    return text ? 0 : 1;
}
