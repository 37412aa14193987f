/* previous FOLDER new|resume|overwrite|checkpoint
 *
 * What becomes of the results in a folder when a run begins there in one of three ways, or has a checkpoint.
 */
#include "zo/previous.h"
#include "helper.h"

int main(int argc, char **argv)
{
    static const char *const ways[] = {[START_NEW] = "new", [START_RESUME] = "resume", [START_OVERWRITE] = "overwrite"};
    if (argc == 3 && strcmp(argv[2], "checkpoint") == 0)
        return helper_end("previous", previous_remove(argv[1]));
    for (enum start way = START_NEW; argc == 3 && way <= START_OVERWRITE; way++)
        if (strcmp(argv[2], ways[way]) == 0)
            return helper_end("previous", previous_begin(argv[1], way));
    return helper_end("previous", error_input("usage: previous FOLDER new|resume|overwrite|checkpoint"));
}
