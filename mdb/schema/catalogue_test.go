package schema_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// catalogue returns what the system catalogues say about the schema message_store and its
// objects: facts by their subjects.
func catalogue(t testing.TB, db querier) map[string]string {
	t.Helper()
	facts := make(map[string]string)
	for _, query := range catalogues {
		rows, _ := db.Query(t.Context(), query)
		type fact struct{ About, Is string }
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fact])
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, f := range found {
			if is, ok := facts[f.About]; ok {
				t.Fatalf("two facts about %s: %s, %s", f.About, is, f.Is)
			}
			facts[f.About] = f.Is
		}
	}
	return facts
}

// identities returns the row identities in the catalogues, which change when an object
// is recreated.
func identities(t testing.TB, db querier) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `
		SELECT 'relation ' || relname || ' ' || oid || ' ' || xmin FROM pg_class WHERE relnamespace = to_regnamespace('message_store')
		UNION ALL SELECT 'function ' || proname || ' ' || oid || ' ' || xmin FROM pg_proc WHERE pronamespace = to_regnamespace('message_store')
		UNION ALL SELECT 'type ' || typname || ' ' || oid || ' ' || xmin FROM pg_type WHERE typnamespace = to_regnamespace('message_store')
		UNION ALL SELECT 'schema ' || nspname || ' ' || oid || ' ' || xmin FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%'
		UNION ALL SELECT 'extension ' || extname || ' ' || oid || ' ' || xmin FROM pg_extension
		UNION ALL SELECT 'role ' || rolname || ' ' || oid FROM pg_roles WHERE rolname = 'message_store'
		ORDER BY 1`)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// differences returns the differences between two catalogues, sorted by subject.
func differences(first, second map[string]string) []difference {
	about := slices.Concat(keys(first), keys(second))
	slices.Sort(about)
	var found []difference
	for _, k := range slices.Compact(about) {
		if first[k] != second[k] {
			found = append(found, difference{k, first[k], second[k]})
		}
	}
	return found
}

func keys(facts map[string]string) []string {
	return slices.Collect(maps.Keys(facts))
}

type difference struct{ about, first, second string }

func (d difference) String() string {
	return fmt.Sprintf("%s: %q and %q", d.about, d.first, d.second)
}

const relations = `pg_class AS c WHERE c.relnamespace = to_regnamespace('message_store')`

var catalogues = []string{
	`SELECT 'schema ' || nspname, 'owner ' || pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'message_store'`,

	`SELECT 'relation ' || relname, concat_ws(', ', relkind, 'persistence ' || relpersistence::text, 'owner ' || pg_get_userbyid(relowner),
		'row security ' || relrowsecurity, 'options ' || reloptions::text) FROM ` + relations,

	// By number, so that the order is compared, too.
	`SELECT 'column ' || c.relname || ' ' || a.attnum,
		concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
			'default ' || pg_get_expr(d.adbin, d.adrelid), 'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, ''),
			'collation ' || nullif(a.attcollation::regcollation::text, '-'), 'storage ' || a.attstorage::text)
		FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = to_regnamespace('message_store') AND c.relkind <> 'i' AND a.attnum > 0 AND NOT a.attisdropped`,

	`SELECT 'index ' || c.relname, pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END
		FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE c.relnamespace = to_regnamespace('message_store')`,

	`SELECT 'constraint ' || c.relname || '.' || n.conname, pg_get_constraintdef(n.oid)
		FROM pg_constraint AS n JOIN pg_class AS c ON c.oid = n.conrelid WHERE n.connamespace = to_regnamespace('message_store')`,

	`SELECT 'trigger ' || c.relname || '.' || g.tgname, pg_get_triggerdef(g.oid)
		FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid WHERE c.relnamespace = to_regnamespace('message_store') AND NOT g.tgisinternal`,

	`SELECT 'sequence ' || c.relname, concat_ws(', ', format_type(s.seqtypid, NULL), 'start ' || seqstart, 'increment ' || seqincrement,
		'max ' || seqmax, 'min ' || seqmin, 'cache ' || seqcache, 'cycle ' || seqcycle,
		'owned by ' || (SELECT string_agg(d.refobjid::regclass || '.' || a.attname, ', ') FROM pg_depend AS d
			JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.objid = c.oid AND d.deptype = 'a'))
		FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid WHERE c.relnamespace = to_regnamespace('message_store')`,

	`SELECT 'function ' || f.name || ': ' || fact.about, fact.value FROM (
			SELECT p.*, p.proname || '(' || oidvectortypes(p.proargtypes) || ')' AS name
			FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('message_store')
		) AS f JOIN pg_language AS l ON l.oid = f.prolang, LATERAL (VALUES
			('kind', f.prokind::text),
			('arguments', pg_get_function_arguments(f.oid)),
			('result', pg_get_function_result(f.oid)),
			('language', l.lanname),
			('volatility', f.provolatile::text),
			('parallel', f.proparallel::text),
			('strict', f.proisstrict::text),
			('security definer', f.prosecdef::text),
			('leakproof', f.proleakproof::text),
			('cost', f.procost::text),
			('rows', f.prorows::text),
			('settings', f.proconfig::text),
			('owner', pg_get_userbyid(f.proowner))
		) AS fact(about, value) WHERE fact.value IS NOT NULL`,

	`SELECT 'type ' || t.typname, concat_ws(', ', t.typtype, format_type(t.oid, NULL)) FROM pg_type AS t
		WHERE t.typnamespace = to_regnamespace('message_store')`,

	`SELECT 'extension ' || extname, 'installed' FROM pg_extension`,

	`SELECT 'database setting ' || coalesce(r.rolname, ''), setconfig::text FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
		LEFT JOIN pg_roles AS r ON r.oid = s.setrole WHERE d.datname = current_database()`,

	`SELECT 'right of ' || role || ': ' || privilege || ' on schema message_store', has_schema_privilege(role, n.oid, privilege)::text
		FROM pg_namespace AS n, ` + grantees + `, unnest(ARRAY['USAGE', 'CREATE']) AS privilege WHERE n.nspname = 'message_store'`,

	`SELECT 'right of ' || role || ': ' || privilege || ' on ' || c.relname, has_table_privilege(role, c.oid, privilege)::text
		FROM ` + grantees + `, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege, ` + relations + ` AND c.relkind IN ('r', 'v')`,

	`SELECT 'right of ' || role || ': ' || privilege || ' on a column of ' || c.relname, has_any_column_privilege(role, c.oid, privilege)::text
		FROM ` + grantees + `, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege, ` + relations + ` AND c.relkind IN ('r', 'v')`,

	// Within CASE, because the function fails for anything but a sequence.
	`SELECT 'right of ' || role || ': ' || privilege || ' on ' || c.relname, CASE c.relkind WHEN 'S' THEN has_sequence_privilege(role, c.oid, privilege)::text END
		FROM ` + grantees + `, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS privilege, ` + relations + ` AND c.relkind = 'S'`,

	`SELECT 'right of ' || role || ': EXECUTE on ' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')', has_function_privilege(role, p.oid, 'EXECUTE')::text
		FROM pg_proc AS p, ` + grantees + ` WHERE p.pronamespace = to_regnamespace('message_store')`,

	`SELECT 'right of ' || role || ': USAGE on type ' || t.typname, has_type_privilege(role, t.oid, 'USAGE')::text
		FROM pg_type AS t, ` + grantees + ` WHERE t.typnamespace = to_regnamespace('message_store')`,
}

const grantees = `(SELECT rolname::text FROM pg_roles WHERE rolname = 'message_store' UNION ALL SELECT 'public') AS grantee(role)`
