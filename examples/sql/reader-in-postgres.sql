-- checker, in the database postgres
SELECT * FROM pgaadauth_create_principal_with_oid('gha-check', 'OBJECT-ID', 'service', false, false);
