package mdbtest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/testdata"
)

// load returns the content of a file of the suite's data. A field that Go does
// not know fails the test, as a case that says more than is tested would be
// misleading.
func load[T any](t testing.TB, name string) T {
	t.Helper()
	file, err := testdata.Conformance.ReadFile("conformance/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	decoder := json.NewDecoder(bytes.NewReader(file))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// A place is what the data's texts name in braces.
type place struct {
	category, origin mdb.Category
	stream, unused   mdb.StreamName
	id               uuid.UUID
}

func newPlace(name string) place {
	category := Category(name)
	return place{
		category: category,
		origin:   Category("origin"),
		stream:   category.Stream("1"),
		unused:   category.Stream("2"),
		id:       uuid.New(),
	}
}

func (p place) fill(text string) string {
	return strings.NewReplacer(
		"{category}", string(p.category),
		"{origin}", string(p.origin),
		"{stream}", string(p.stream),
		"{new}", string(p.unused),
		"{id}", p.id.String(),
	).Replace(text)
}
