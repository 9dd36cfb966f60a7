//go:build official

package schema_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

const (
	inlined = "it is an expression, which the server inlines into queries and index expressions"
	planned = "one plan serves all calls; the setting avoids planning each of them"
	builtIn = "gen_random_uuid is built in since PostgreSQL 13"
)

// deliberate are all the differences between the catalogue of an installation by this
// package and one by Message DB's script.
var deliberate = []struct {
	difference
	why string
}{
	{difference{"extension pgcrypto", "", "installed"}, builtIn},
	{difference{"function cardinal_id(character varying): language", "sql", "plpgsql"}, inlined},
	{difference{"function cardinal_id(character varying): parallel", "s", "u"}, inlined},
	{difference{"function category(character varying): language", "sql", "plpgsql"}, inlined},
	{difference{"function category(character varying): parallel", "s", "u"}, inlined},
	{difference{"function get_category_messages(character varying, bigint, bigint, character varying, bigint, bigint, character varying): settings", "{plan_cache_mode=force_generic_plan}", ""}, planned},
	{difference{"function hash_64(character varying): language", "sql", "plpgsql"}, inlined},
	{difference{"function hash_64(character varying): parallel", "s", "u"}, inlined},
	{difference{"function id(character varying): language", "sql", "plpgsql"}, inlined},
	{difference{"function id(character varying): parallel", "s", "u"}, inlined},
	{difference{"function is_category(character varying): language", "sql", "plpgsql"}, inlined},
	{difference{"function is_category(character varying): parallel", "s", "u"}, inlined},
}

// TestCatalogueIsMessageDBs checks that an installation by this package differs from one
// by Message DB's script only as listed above.
func TestCatalogueIsMessageDBs(t *testing.T) {
	t.Parallel()
	ours := catalogue(t, connect(t, pgtest.Database(t, "ours", testdb.InstallOurs)))
	official := catalogue(t, connect(t, pgtest.Database(t, "official", testdb.InstallOfficial)))
	// Neither has facts of the other kinds.
	for _, kind := range []string{"schema ", "relation ", "column ", "index ", "constraint ", "sequence ", "function ", "type ", "extension ", "right of "} {
		for whose, facts := range map[string]map[string]string{"ours": ours, "official": official} {
			if !slices.ContainsFunc(keys(facts), func(about string) bool { return strings.HasPrefix(about, kind) }) {
				t.Errorf("%s: the catalogue has no %s", whose, kind)
			}
		}
	}

	found := differences(ours, official)
	for _, d := range deliberate {
		if !slices.Contains(found, d.difference) {
			t.Errorf("the difference %s (%s) no longer exists", d.difference, d.why)
		}
		found = slices.DeleteFunc(found, func(f difference) bool { return f == d.difference })
	}
	for _, d := range found {
		t.Error(d)
	}
}

// TestInstallOverOfficial checks that Install leaves an installation by Message DB's script
// unchanged.
func TestInstallOverOfficial(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Database(t, "official", testdb.InstallOfficial))
	unchanged(t, conn, func() { install(t, conn) })
}
