"""Commands of `maskwise` that are about methods and models; those about data and files lie beside these."""
