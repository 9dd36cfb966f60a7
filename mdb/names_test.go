package mdb_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func TestStreamName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     mdb.StreamName
		category mdb.Category
		id       string
		cardinal string
	}{
		{"", "", "", ""},
		{"-", "", "", ""},
		{"account", "account", "", ""},
		{"account-", "account", "", ""},
		{"-123", "", "123", "123"},
		{"account-123", "account", "123", "123"},
		{"account-a-b", "account", "a-b", "a-b"},
		{"account-123+456", "account", "123+456", "123"},
		{"account-123+456+789", "account", "123+456+789", "123"},
		{"account-a-b+c-d", "account", "a-b+c-d", "a-b"},
		{"account-+456", "account", "+456", ""},
		{"account:command+position-1", "account:command+position", "1", "1"},
		{"a+b", "a+b", "", ""},
		{"конто-ß+é", "конто", "ß+é", "ß"},
	} {
		if got := tt.name.Category(); got != tt.category {
			t.Errorf("%q: category %q, want %q", tt.name, got, tt.category)
		}
		if got := tt.name.ID(); got != tt.id {
			t.Errorf("%q: ID %q, want %q", tt.name, got, tt.id)
		}
		if got := tt.name.CardinalID(); got != tt.cardinal {
			t.Errorf("%q: cardinal ID %q, want %q", tt.name, got, tt.cardinal)
		}
	}
}

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
			t.Errorf("%q of %q is %q, want %q", tt.id, tt.category, got, tt.want)
		}
		if got.Category() != tt.category || got.ID() != tt.id {
			t.Errorf("%q comes apart as %q and %q, want %q and %q", got, got.Category(), got.ID(), tt.category, tt.id)
		}
	}
}

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
			t.Errorf("CompoundID(%q) = %q, want %q", ids, got, want)
		}
	}
}

// TestHash64 pins values that Message DB's documentation and its users' data rest
// on; FuzzNames compares all others with the server.
func TestHash64(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int64{
		"someStream": 2053039834977696644,
		"":           -3162216497309240828, // md5 d41d8cd98f00b204…
		"1":          -4266524885998034046, // md5 c4ca4238a0b92382…
	} {
		if got := mdb.Hash64(value); got != want {
			t.Errorf("Hash64(%q) = %d, want %d", value, got, want)
		}
	}
}

// FuzzNames compares what is said of a name here with what the server says.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"", "-", "--", "+", "-+", "+-", "a", "a-", "-a", "a-b", "a-b-c", "a-+b", "a-b+c", "a-b+c+d", "a-b+c-d", "a+b",
		"a:t1+t2-1", "someStream", "account-" + strings.Repeat("0123456789", 40), " - ", "'\"\\%_$1--;", "конто-ß+é",
		"a\u0301-\u200d", "‐–—-−", "\U0001F642-\U0001F469\u200d\U0001F4BB+1", "\ufeffa-b", "\ufffd-\ufffd", "a\n-\tb",
	} {
		f.Add(seed)
	}
	pool := mdbtest.SharedStore(f).Pool()
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			t.Skip("PostgreSQL has no such text")
		}
		var category string
		var id, cardinal *string
		var isCategory bool
		var hash, cardinalHash int64
		err := pool.QueryRow(t.Context(), `SELECT message_store.category($1::varchar), message_store.id($1::varchar),
			message_store.cardinal_id($1::varchar), message_store.is_category($1::varchar), message_store.hash_64($1::varchar),
			message_store.hash_64(coalesce(message_store.cardinal_id($1::varchar), ''))`, s).
			Scan(&category, &id, &cardinal, &isCategory, &hash, &cardinalHash)
		if err != nil {
			t.Fatal(err)
		}
		name := mdb.StreamName(s)
		if string(name.Category()) != category {
			t.Errorf("%q: category %q, want %q", s, name.Category(), category)
		}
		if got := string(name.Category()) == s; got != isCategory {
			t.Errorf("%q is a category: %t, want %t", s, got, isCategory)
		}
		// The server's NULL is what "" stands for here.
		if isCategory != (id == nil) || isCategory != (cardinal == nil) {
			t.Errorf("%q is a category: %t, but the server's id is %v and its cardinal id %v", s, isCategory, id, cardinal)
		}
		if want := orEmpty(id); name.ID() != want {
			t.Errorf("%q: ID %q, want %q", s, name.ID(), want)
		}
		if want := orEmpty(cardinal); name.CardinalID() != want {
			t.Errorf("%q: cardinal ID %q, want %q", s, name.CardinalID(), want)
		}
		if got := mdb.Hash64(s); got != hash {
			t.Errorf("Hash64(%q) = %d, want %d", s, got, hash)
		}
		if got := mdb.Hash64(name.CardinalID()); got != cardinalHash {
			t.Errorf("Hash64 of %q's cardinal ID = %d, want %d", s, got, cardinalHash)
		}
		if id != nil && name.Category().Stream(name.ID()) != name {
			t.Errorf("%q is put together as %q", s, name.Category().Stream(name.ID()))
		}
	})
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
