package schema_test

import "testing"

// TestFunctionsAreNotLedAstray checks that the installed functions do not call functions
// of a caller's schema that have the names of PostgreSQL's and fit the arguments better.
func TestFunctionsAreNotLedAstray(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	install(t, conn)
	run(t, conn, `
		CREATE FUNCTION public.mod(bigint, smallint) RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint';
		CREATE FUNCTION public.abs(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint';
		CREATE FUNCTION public.strpos(varchar, text) RETURNS int LANGUAGE sql AS 'SELECT 0';
		CREATE FUNCTION public.hash_64(varchar) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';
		CREATE TABLE public.messages (position bigint);
		SET search_path = public, message_store;
		SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-' || i, 'Happened', NULL) FROM generate_series(1, 10) AS i`)
	var n int
	const members = `SELECT count(*) FROM generate_series(0, 2) AS member, message_store.get_category_messages('account', consumer_group_member => member, consumer_group_size => 3)`
	if err := conn.QueryRow(t.Context(), members).Scan(&n); err != nil || n != 10 {
		t.Errorf("the members read %d messages, %v, want 10", n, err)
	}
}
