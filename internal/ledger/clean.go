package ledger

import "strings"

// maxError is the length of the longest error text, in characters.
const maxError = 1000

// clean returns a text that PostgreSQL can store: valid UTF-8 without NUL.
func clean(text string) string {
	runes := []rune(strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "\uFFFD"))
	return string(runes[:min(len(runes), maxError)])
}
