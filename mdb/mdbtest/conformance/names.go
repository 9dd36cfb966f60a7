package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
)

type nameCase struct {
	Name       string  `json:"name"`
	Category   string  `json:"category"`
	ID         *string `json:"id"`
	CardinalID *string `json:"cardinal_id"`
	IsCategory bool    `json:"is_category"`
}

type hashCase struct {
	Value string `json:"value"`
	Hash  int64  `json:"hash"`
}

func (s *suite) names(t *testing.T) {
	t.Helper()
	cases := load[[]nameCase](t, "names.json")

	// What SQL calls NULL, Go calls "".
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	for _, test := range []struct {
		name, function string
		of             func(nameCase) bool
		want           func(nameCase) *string
		got            func(mdb.StreamName) string
	}{
		{
			"category: of a stream name", "category",
			func(c nameCase) bool { return !c.IsCategory },
			func(c nameCase) *string { return &c.Category },
			func(n mdb.StreamName) string { return string(n.Category()) },
		},
		{
			"category: of a category", "category",
			func(c nameCase) bool { return c.IsCategory },
			func(c nameCase) *string { return &c.Category },
			func(n mdb.StreamName) string { return string(n.Category()) },
		},
		{
			"id: of a stream name, and NULL of a category", "id",
			func(c nameCase) bool { return strings.Count(c.Name, "-") < 2 },
			func(c nameCase) *string { return c.ID },
			mdb.StreamName.ID,
		},
		{
			"id: begins after the first dash", "id",
			func(c nameCase) bool { return strings.Count(c.Name, "-") >= 2 },
			func(c nameCase) *string { return c.ID },
			mdb.StreamName.ID,
		},
		{
			"cardinal_id: is the first of the ids that + joins", "cardinal_id",
			func(nameCase) bool { return true },
			func(c nameCase) *string { return c.CardinalID },
			mdb.StreamName.CardinalID,
		},
	} {
		s.check(t, test.name, func(t *testing.T) {
			cases := slices.DeleteFunc(slices.Clone(cases), func(c nameCase) bool { return !test.of(c) })
			if len(cases) == 0 {
				t.Fatal("no cases")
			}
			for _, c := range cases {
				got := value[*string](t, s.store.Pool(), `SELECT message_store.`+test.function+`($1::varchar)`, c.Name)
				want := test.want(c)
				if (got == nil) != (want == nil) || text(got) != text(want) {
					t.Errorf("%s(%q) is %q (NULL: %t), want %q (NULL: %t)",
						test.function, c.Name, text(got), got == nil, text(want), want == nil)
				}
				if got := test.got(mdb.StreamName(c.Name)); got != text(want) {
					t.Errorf("in Go, %s of %q is %q, want %q", test.function, c.Name, got, text(want))
				}
			}
		})
	}

	s.check(t, "is_category: is true without a dash", func(t *testing.T) {
		for _, c := range cases {
			if got := value[bool](t, s.store.Pool(), `SELECT message_store.is_category($1::varchar)`, c.Name); got != c.IsCategory {
				t.Errorf("is_category(%q) is %t, want %t", c.Name, got, c.IsCategory)
			}
		}
	})

	s.check(t, "all functions: of NULL", func(t *testing.T) {
		type row struct {
			Category, ID, CardinalID pgtype.Text
			IsCategory               bool
			Hash                     pgtype.Int8
		}
		got := collect(t, s.store.Pool(), pgx.RowToStructByPos[row], `SELECT message_store.category(NULL), message_store.id(NULL),
			message_store.cardinal_id(NULL), message_store.is_category(NULL), message_store.hash_64(NULL)`)
		if want := (row{IsCategory: true}); !slices.Equal(got, []row{want}) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func (s *suite) hash(t *testing.T) {
	t.Helper()
	s.check(t, "hash_64: is the first 64 bits of the MD5 hash", func(t *testing.T) {
		for _, c := range load[[]hashCase](t, "hashes.json") {
			if got := value[int64](t, s.store.Pool(), `SELECT message_store.hash_64($1::varchar)`, c.Value); got != c.Hash {
				t.Errorf("hash_64(%q) is %d, want %d", c.Value, got, c.Hash)
			}
			if got := mdb.Hash64(c.Value); got != c.Hash {
				t.Errorf("Hash64(%q) is %d, want %d", c.Value, got, c.Hash)
			}
		}
	})
}

func (s *suite) storeVersion(t *testing.T) {
	t.Helper()
	s.check(t, "is 1.3.0", func(t *testing.T) {
		const want = "1.3.0"
		if got := value[string](t, s.store.Pool(), `SELECT message_store.message_store_version()`); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		s.onStoreAndTx(t, func(how string, c client) {
			if got, err := c.MessageStoreVersion(t.Context()); err != nil || got != want {
				t.Errorf("MessageStoreVersion of a %s returns %s, %v, want %s", how, got, err, want)
			}
		})
	})
}
