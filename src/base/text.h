/* base/text.h
 *
 * Texts that come from files, names and arguments, on their way to people: a terminal, a log, a page, a summary that
 * other programs read. There they are UTF-8 without control characters, whatever they were.
 */
#ifndef ZOODIP_BASE_TEXT_H
#define ZOODIP_BASE_TEXT_H

/* Every byte of a control character, and every byte that is no UTF-8 (as where a text was cut), becomes '?'. */
void text_show_safely(char *text);

#endif
