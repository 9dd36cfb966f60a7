package archive

import (
	"strconv"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// faults collects all problems of a call's arguments, for one [*mdb.ArgumentError].
type faults []mdb.Fault

func (f *faults) add(argument, given, allowed string) {
	*f = append(*f, mdb.Fault{Argument: argument, Given: given, Allowed: allowed})
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &mdb.ArgumentError{Faults: f}
}

func (f *faults) position(argument string, position int64) {
	if position < 0 {
		f.add(argument, strconv.FormatInt(position, 10), "at least 0")
	}
}

func (f *faults) category(c mdb.Category) {
	if c == "" || strings.ContainsAny(string(c), "-\x00") {
		f.add("category", strconv.Quote(string(c)), "a category, which contains no dash")
	}
}
