# Starts a server. Stops it and removes its folder when standard input ends, that is,
# when the owner's process ends, however it ends. Run as the server's user:
#
#	sh -c "$(cat watchdog.sh)" pgtest BIN DIR
#
# with the variables password and settings. Standard input contains commands for
# pg_ctl, one a line. Standard output gets the exit status of initdb and then of each
# command. If the variable source names the data of another server, the new one is its
# standby, and cp takes the place of initdb. Descriptor 3 is the lock of DIR: the watchdog holds it, and the server must
# not, or a dead watchdog's folder would stay locked.
bin=$1 dir=$2

# Only the end of the owner may end this script. PIPE is ignored because a dead owner
# does not read the output.
trap '' PIPE HUP INT TERM

umask 077
exec 2>>"$dir/log"

initialize() {
	printf '%s\n' "$password" >"$dir/password" &&
		"$bin/initdb" --pgdata="$dir/data" --username=postgres --pwfile="$dir/password" \
			--auth-local=trust --auth-host=scram-sha-256 \
			--encoding=UTF8 --no-locale --no-sync
}

# duplicate copies the data of a running server. cp fails if a file that it has listed is
# removed before it gets there. The standby receives the WAL from its primary.
duplicate() {
	mkdir "$dir/data" || return
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		cp -R "$source/." "$dir/data" && break
	done || return
	rm -rf "$dir/data"/pg_wal/* "$dir/data"/pg_replslot/* "$dir/data/postmaster.pid" "$dir/data/postmaster.opts" &&
		: >"$dir/data/standby.signal" &&
		# What ALTER SYSTEM has set on the other server would override the settings.
		printf '%s' "$settings" >>"$dir/data/postgresql.auto.conf"
}

{
	if [ -n "$source" ]; then duplicate; else initialize; fi &&
		printf '%s' "$settings" >>"$dir/data/postgresql.conf"
} >>"$dir/log" 3>&-
echo $?

while read -r command; do
	# Unquoted, because a command has several words.
	"$bin/pg_ctl" $command --pgdata="$dir/data" --log="$dir/log" --wait --timeout=120 \
		</dev/null >>"$dir/log" 3>&-
	echo $?
done

# A test may have stopped the server's processes by a signal.
if [ -f "$dir/data/postmaster.pid" ]; then
	read -r pid <"$dir/data/postmaster.pid" && kill -CONT "$pid"
fi 3>&-
"$bin/pg_ctl" stop --mode=immediate --pgdata="$dir/data" --wait --timeout=30 >>"$dir/log" 3>&-
rm -rf "$dir"
