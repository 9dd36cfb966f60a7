package figures

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Put replaces what stands in a file between two lines.
func Put(file, begin, end, block string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(data), begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return errors.New(file + " lacks the lines between which the table stands")
	}
	return os.WriteFile(file, []byte(before+begin+block+end+after), 0o600)
}

// Rounded returns a number with three digits that count, and commas between thousands.
func Rounded(value float64) string {
	n, unit := int64(value), int64(1)
	for n/unit >= 1000 {
		unit *= 10
	}
	digits := fmt.Sprint((n + unit/2) / unit * unit)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
