/* base/text.h
 *
 * Makes texts from files, names and arguments safe to show on a terminal, in a log, on a page or in a summary that
 * other programs read: valid UTF-8 without control characters.
 */
#ifndef ZOODIP_BASE_TEXT_H
#define ZOODIP_BASE_TEXT_H

/* Replaces every byte of a control character, and every byte that is not valid UTF-8 (such as a character that was
 * cut), by '?'. */
void text_show_safely(char *text);

#endif
