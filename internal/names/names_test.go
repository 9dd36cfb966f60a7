package names_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestParts checks the parts of names, and the member of a group of 2 that gets the stream.
func TestParts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, category, id, cardinal string
		member                       int64
	}{
		{"", "", "", "", -1},
		{"-", "", "", "", 0},
		{"account", "account", "", "", -1},
		{"account-", "account", "", "", 0},
		{"-123", "", "123", "123", 1},
		{"account-123", "account", "123", "123", 1},
		{"account-a-b", "account", "a-b", "a-b", 0},
		{"account-123+456", "account", "123+456", "123", 1},
		{"account-123+456+789", "account", "123+456+789", "123", 1},
		{"account-a-b+c-d", "account", "a-b+c-d", "a-b", 0},
		{"account-+456", "account", "+456", "", 0},
		{"account:command+position-1", "account:command+position", "1", "1", 0},
		{"a+b", "a+b", "", "", -1},
		{"конто-ß+é", "конто", "ß+é", "ß", 0},
	} {
		if got := names.Category(tt.name); got != tt.category {
			t.Errorf("Category(%q): got %q, want %q", tt.name, got, tt.category)
		}
		if got := names.ID(tt.name); got != tt.id {
			t.Errorf("ID(%q): got %q, want %q", tt.name, got, tt.id)
		}
		if got := names.CardinalID(tt.name); got != tt.cardinal {
			t.Errorf("CardinalID(%q): got %q, want %q", tt.name, got, tt.cardinal)
		}
		if got := names.Member(tt.name, 2); got != tt.member {
			t.Errorf("Member(%q, 2): got %d, want %d", tt.name, got, tt.member)
		}
	}
}

// TestHash64 checks values that Message DB documents or that were computed by hand.
func TestHash64(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int64{
		"someStream": 2053039834977696644,
		"":           -3162216497309240828, // md5 d41d8cd98f00b204…
		"1":          -4266524885998034046, // md5 c4ca4238a0b92382…
	} {
		if got := names.Hash64(value); got != want {
			t.Errorf("Hash64(%q): got %d, want %d", value, got, want)
		}
	}
}

// FuzzNames checks that all functions compute what the server's functions compute.
func FuzzNames(f *testing.F) {
	for i, seed := range []string{
		"", "-", "--", "+", "-+", "+-", "a", "a-", "-a", "a-b", "a-b-c", "a-+b", "a-b+c", "a-b+c+d", "a-b+c-d", "a+b",
		"a:t1+t2-1", "someStream", "account-" + strings.Repeat("0123456789", 40), " - ", "'\"\\%_$1--;", "конто-ß+é",
		"a\u0301-\u200d", "‐–—-−", "\U0001F642-\U0001F469\u200d\U0001F4BB+1", "\ufeffa-b", "\ufffd-\ufffd", "a\n-\tb",
	} {
		f.Add(seed, uint16(i%7))
	}
	pool, err := pgxpool.New(f.Context(), testdb.Shared(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	f.Fuzz(func(t *testing.T, s string, n uint16) {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			t.Skip("PostgreSQL has no such text")
		}
		size := int64(n) + 1
		var category string
		var id, cardinal *string
		var isCategory bool
		var hash int64
		var member *int64
		err := pool.QueryRow(t.Context(), `SELECT message_store.category($1::varchar), message_store.id($1::varchar),
			message_store.cardinal_id($1::varchar), message_store.is_category($1::varchar), message_store.hash_64($1::varchar),
			MOD(@message_store.hash_64(message_store.cardinal_id($1::varchar)), $2)`, s, size).
			Scan(&category, &id, &cardinal, &isCategory, &hash, &member)
		if err != nil {
			t.Fatal(err)
		}
		if got := names.Category(s); got != category {
			t.Errorf("Category(%q): got %q, want %q", s, got, category)
		}
		if got := names.Category(s) == s; got != isCategory {
			t.Errorf("whether %q is a category: got %t, want %t", s, got, isCategory)
		}
		// The server's NULL is "" here, and no member.
		if isCategory != (id == nil) || isCategory != (cardinal == nil) || isCategory != (member == nil) {
			t.Errorf("%q: is_category is %t, but id is %v, cardinal_id %v and the member %v", s, isCategory, id, cardinal, member)
		}
		if got, want := names.ID(s), valueOr(id, ""); got != want {
			t.Errorf("ID(%q): got %q, want %q", s, got, want)
		}
		if got, want := names.CardinalID(s), valueOr(cardinal, ""); got != want {
			t.Errorf("CardinalID(%q): got %q, want %q", s, got, want)
		}
		if got := names.Hash64(s); got != hash {
			t.Errorf("Hash64(%q): got %d, want %d", s, got, hash)
		}
		if got, want := names.Member(s, size), valueOr(member, -1); got != want {
			t.Errorf("Member(%q, %d): got %d, want %d", s, size, got, want)
		}
	})
}

func valueOr[T any](v *T, otherwise T) T {
	if v == nil {
		return otherwise
	}
	return *v
}
