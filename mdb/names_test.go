package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestStreamName checks that the methods return the right parts; which parts a name has
// is tested in internal/names.
func TestStreamName(t *testing.T) {
	t.Parallel()
	const name mdb.StreamName = "account-123+456"
	if got := name.Category(); got != "account" {
		t.Errorf("Category of %q: got %q, want %q", name, got, "account")
	}
	if got := name.ID(); got != "123+456" {
		t.Errorf("ID of %q: got %q, want %q", name, got, "123+456")
	}
	if got := name.CardinalID(); got != "123" {
		t.Errorf("CardinalID of %q: got %q, want %q", name, got, "123")
	}
	if got, want := mdb.Hash64("someStream"), int64(2053039834977696644); got != want {
		t.Errorf("Hash64: got %d, want %d", got, want)
	}
}

// TestCategoryStream checks that Stream puts a name together and that the methods take it
// apart.
func TestCategoryStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		category mdb.Category
		id       string
		want     mdb.StreamName
	}{
		{"account", "123", "account-123"},
		{"account", "a-b", "account-a-b"},
		{"account:command", mdb.CompoundID("123", "456"), "account:command-123+456"},
	} {
		got := tt.category.Stream(tt.id)
		if got != tt.want {
			t.Errorf("stream %q of category %q: got %q, want %q", tt.id, tt.category, got, tt.want)
		}
		if got.Category() != tt.category || got.ID() != tt.id {
			t.Errorf("parts of %q: got %q and %q, want %q and %q", got, got.Category(), got.ID(), tt.category, tt.id)
		}
	}
}

// TestCompoundID checks that IDs are joined with plus signs.
func TestCompoundID(t *testing.T) {
	t.Parallel()
	for want, ids := range map[string][]string{
		"":      nil,
		"1":     {"1"},
		"1+2":   {"1", "2"},
		"1+2+3": {"1", "2", "3"},
		"1+":    {"1", ""},
	} {
		if got := mdb.CompoundID(ids...); got != want {
			t.Errorf("CompoundID(%q): got %q, want %q", ids, got, want)
		}
	}
}
