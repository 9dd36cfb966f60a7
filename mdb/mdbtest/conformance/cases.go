package conformance

import (
	"bytes"
	"embed"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// The files contain calls and their expected results. In their texts {category}
// stands for a category that nothing else uses, {stream} for a stream of it that has
// one message, with the ID {id}, {new} for a stream of it without messages, and
// {origin} for another category.
//
//go:embed testdata
var files embed.FS

// load decodes a file of testdata. It rejects fields that Go does not know, because
// a case must not contain more than is tested.
func load[T any](t testing.TB, name string) T {
	t.Helper()
	file, err := files.ReadFile("testdata/" + name)
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

// A place contains the values of the names in braces.
type place struct {
	category, origin mdb.Category
	stream, unused   mdb.StreamName
	id               uuid.UUID
}

func newPlace(name string) place {
	category := mdbtest.Category(name)
	return place{
		category: category,
		origin:   mdbtest.Category("origin"),
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
