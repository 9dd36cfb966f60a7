// Package terminal knows how wide a terminal is, and how much text fits.
package terminal

import (
	"unicode"
)

// ellipsis stands for what is cut off.
const ellipsis = '…'

// Cut returns the text if it fits into a number of columns, and otherwise as much of it as fits with an ellipsis at its end. It also
// returns the number of columns that are used.
func Cut(text string, columns int) (cut string, used int) {
	fits := 0 // as many bytes fit before an ellipsis
	for i, r := range text {
		if used+1 <= columns {
			fits = i
		}
		used += width(r)
		if used > columns {
			if columns < 1 {
				return "", 0
			}
			return text[:fits] + string(ellipsis), Columns(text[:fits]) + 1
		}
	}
	return text, used
}

// Columns returns the number of columns that a text needs.
func Columns(text string) (n int) {
	for _, r := range text {
		n += width(r)
	}
	return n
}

// wide are scripts whose characters terminals show in two columns.
var wide = []*unicode.RangeTable{unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana}

// width returns the number of columns of a character, as terminals usually show it.
func width(r rune) int {
	const (
		firstWide      = 0x1100
		fullWidth      = 0xFF01 // to the next
		afterFullWidth = 0xFF61
		emoji          = 0x1F300 // and what follows in the plane
		afterEmoji     = 0x1FB00
	)
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r < firstWide:
		return 1
	case unicode.In(r, wide...), r >= fullWidth && r < afterFullWidth, r >= emoji && r < afterEmoji, r > 0x3000 && r < 0x3040:
		return 2
	}
	return 1
}
