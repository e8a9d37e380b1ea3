"""All SQL of schema `metarisk`: one file a family of tables."""
