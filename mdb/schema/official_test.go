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
	inlined = "an expression instead of a block, so that the server inlines it into queries and index expressions"
	planned = "its queries are fixed, so that one plan serves all calls; the setting keeps the server from planning at each of them"
	builtIn = "gen_random_uuid is built in since PostgreSQL 13"
)

// deliberate are the differences between the catalogue of an installation by this
// package and one by Message DB's script. There must not be others, and each of
// them must be there.
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

func TestCatalogueIsMessageDBs(t *testing.T) {
	t.Parallel()
	ours := catalogue(t, connect(t, pgtest.Database(t, "ours", testdb.InstallOurs)))
	official := catalogue(t, connect(t, pgtest.Database(t, "official", testdb.InstallOfficial)))
	// Of the others, neither has any.
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
			t.Errorf("there is no longer the difference %s (%s)", d.difference, d.why)
		}
		found = slices.DeleteFunc(found, func(f difference) bool { return f == d.difference })
	}
	for _, d := range found {
		t.Error(d)
	}
}

func TestInstallLeavesMessageDBs(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Database(t, "official", testdb.InstallOfficial))
	unchanged(t, conn, func() { install(t, conn) })
}
